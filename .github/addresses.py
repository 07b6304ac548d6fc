"""Put the repository's address where PyPI needs it: into the links of README.md, and into pyproject.toml as URLs.

    python .github/addresses.py https://github.com/ORG/NAME TAG

`publish.yml` runs it before the wheel is built; nothing else holds the address.
"""

import re
import sys
from pathlib import Path

address, tag = sys.argv[1:]
readme, project = Path("README.md"), Path("pyproject.toml")
text = readme.read_text(encoding="utf-8")
text = re.sub(r'((?:src|srcset)=")(?!https?:)', rf"\g<1>{address}/raw/{tag}/", text)
text = re.sub(r"(\]\()(?!https?:|#)", rf"\g<1>{address}/blob/{tag}/", text)
readme.write_text(text, encoding="utf-8")
urls = {"Source": "", "Changelog": f"/blob/{tag}/CHANGELOG.md", "Issues": "/issues"}
lines = [f'{name} = "{address}{path}"\n' for name, path in urls.items()]
project.write_text(f"{project.read_text(encoding='utf-8')}\n[project.urls]\n{''.join(lines)}", encoding="utf-8")
