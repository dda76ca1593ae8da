#compdef dorm dormd
# SPDX-License-Identifier: Apache-2.0
# zsh completion for dorm(1) and dormd(8): the programs themselves know
_dorm() {
	local line
	local -a found

	for line in "${(@f)$("$words[1]" __complete "${(@)words[2,CURRENT-1]}" "$words[CURRENT]" 2>/dev/null)}"; do
		[[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	(( $#found )) && _describe 'dorm' found || _files
}
_dormd() {
	local line
	local -a found row

	for line in "${(@f)$("$words[1]" --describe words 2>/dev/null)}"; do
		row=(${=line})
		if [[ $words[CURRENT-1] == $row[1] && $#row -gt 1 ]]; then
			if [[ $row[2] == choice ]]; then
				compadd -- "${(@)row[3,-1]}"
			else
				_files
			fi
			return
		fi
		found+=($row[1])
	done
	compadd -- $found
}
case $service in
dormd) _dormd ;;
*) _dorm ;;
esac
