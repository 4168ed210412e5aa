from involution.cli import main

raise SystemExit(main())
