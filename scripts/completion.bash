# shellcheck shell=bash
# Completes make's targets here, the variables that a target takes, and their values:
#
#   source scripts/completion.bash
#
# In other folders make completes as before.

_mistralrs_make() {
    local word current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} folder=. name='' goals=()
    local words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
    COMPREPLY=()
    # Readline takes = for the end of a word: NAME, =, value.
    [[ $current != '=' ]] || { name=$before current=''; }
    [[ $before != '=' ]] || name=${COMP_WORDS[COMP_CWORD - 2]}
    for word in "${!words[@]}"; do
        case ${words[word]} in
            -C) folder=${words[word + 1]:-.} ;;
            [a-z]*) [[ ${words[word - 1]:-} == [=C-]* && $word -gt 0 ]] || goals+=("${words[word]}") ;;
        esac
    done
    if [[ ! -x $folder/scripts/target ]]; then
        _mistralrs_make_elsewhere "$@"
        return
    fi
    if [[ $name ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$("$folder/scripts/target" words -- "$name")" -- "$current")
        if ((${#COMPREPLY[@]} == 0)); then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        fi
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$("$folder/scripts/target" words "${goals[@]}")" -- "$current")
    # A variable is followed by its value, without a space.
    [[ ${COMPREPLY[*]} != *= ]] || compopt -o nospace
}

# The completion that bash-completion would load for make at its first use.
_mistralrs_make_elsewhere() {
    local function file=/usr/share/bash-completion/completions/make
    if ! declare -F _make _comp_cmd_make >/dev/null && [[ -r $file ]]; then
        # shellcheck source=/dev/null
        source "$file" 2>/dev/null
        complete -F _mistralrs_make make
    fi
    for function in _comp_cmd_make _make; do
        if declare -F "$function" >/dev/null; then
            "$function" "$@"
            return
        fi
    done
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$2")
}

complete -F _mistralrs_make make
