# SPDX-License-Identifier: Apache-2.0
# fish completion for dorm(1): dorm itself knows
function __dorm_complete
	set -l words (commandline -opc)
	$words[1] __complete $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c dorm -a '(__dorm_complete)'
