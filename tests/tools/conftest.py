"""Makes the scripts in ``tools/`` importable; they are no part of the installed package."""

import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
if str(TOOLS) not in sys.path:
    sys.path.insert(0, str(TOOLS))
