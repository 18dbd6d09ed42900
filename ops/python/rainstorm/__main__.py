"""`python3 -m rainstorm bundle PROGRAM [MODULES...] -o FILE`"""

import sys

from . import bundle

if len(sys.argv) < 2 or sys.argv[1] != "bundle":
    sys.exit(__doc__)
sys.exit(bundle.main(sys.argv[2:]))
