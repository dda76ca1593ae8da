# SPDX-License-Identifier: Apache-2.0
# bash completion for dormd(8), from its own table of settings
_dormd()
{
	local name kind words word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}

	COMPREPLY=()
	while read -r name kind words; do
		if [[ $before == "$name" && -n $kind ]]; then
			[[ $kind != choice ]] || COMPREPLY=($(compgen -W "$words" -- "$word"))
			return
		fi
		[[ $word != -* || $name != "$word"* ]] || COMPREPLY+=("$name")
	done < <("${COMP_WORDS[0]}" --describe words 2>/dev/null)
}
complete -o default -F _dormd dormd
