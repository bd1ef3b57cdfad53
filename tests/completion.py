"""What bash proposes when someone presses Tab."""

from __future__ import annotations

import subprocess
from typing import Set

from tests.invoking import environment
from tests.parts import ROOT, WITHIN

_COMPLETE = r"""
source "$1"
COMP_LINE=$2
COMP_POINT=${#COMP_LINE}
COMP_TYPE=9
read -ra COMP_WORDS <<<"$COMP_LINE"
[[ $COMP_LINE != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }
name=${COMP_WORDS[0]}
function=$(complete -p "$name" | sed 's/.* -F \([^ ]*\).*/\1/')
"$function" "$name" "${COMP_WORDS[COMP_CWORD]}" \
    "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(program: str, line: str, path: str, **more: str) -> Set[str]:
    """Return how the last word of a command line can go on.

    :param line: what follows the program's name
    :param path: $PATH, with the program
    """
    done = subprocess.run(
        [
            *("bash", "-c", _COMPLETE, "bash"),
            str(ROOT / "debian/completion" / program),
            f"{program} {line}",
        ],
        capture_output=True,
        env=environment(PATH=path, **more),
        timeout=WITHIN,
        text=True,
    )
    assert not done.stderr
    return {word.strip() for word in done.stdout.splitlines()}
