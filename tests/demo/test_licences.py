"""Which package metadata let a package into the training text."""

import pytest

from dmcore.demo.licences import permissive_licence


@pytest.mark.parametrize(
    ("expression", "classifiers", "licence", "recorded"),
    [
        ("MIT", [], "", "MIT"),
        ("Apache-2.0 OR BSD-2-Clause", [], "", "Apache-2.0 OR BSD-2-Clause"),
        ("GPL-3.0-only OR MIT", [], "", "GPL-3.0-only OR MIT"),
        (
            "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
            [],
            "",
            "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
        ),
        ("Apache-2.0 WITH LLVM-exception", [], "", "Apache-2.0 WITH LLVM-exception"),
        ("", ["License :: OSI Approved :: BSD License"], "", "BSD-3-Clause"),
        ("", ["License :: OSI Approved :: MIT License", "Topic :: Software"], "see LICENSE", "MIT"),
        ("", [], "Apache License, Version 2.0", "Apache-2.0"),
        ("", [], "BSD-3-Clause", "BSD-3-Clause"),
        ("", [], "MIT License\n\nCopyright (c) ...", "MIT"),
    ],
)
def test_permissive_licences_are_recorded(expression, classifiers, licence, recorded):
    assert permissive_licence(expression, classifiers, licence) == recorded


@pytest.mark.parametrize(
    ("expression", "classifiers", "licence"),
    [
        ("MPL-2.0 AND MIT", [], ""),
        ("GPL-3.0-or-later", [], ""),
        ("MIT OR (Apache-2.0 AND GPL-2.0-only)", [], ""),
        ("GPL-2.0-only WITH Classpath-exception-2.0", [], ""),
        ("MPL-2.0", ["License :: OSI Approved :: MIT License"], "MIT"),
        ("", ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], "MIT"),
        ("", ["License :: OSI Approved :: MIT License", "License :: Other/Proprietary License"], ""),
        ("", ["License :: OSI Approved"], "LGPL"),
        ("", [], "MPL-2.0"),
        ("", [], "Proprietary"),
        ("", [], "not MIT"),
        ("", [], ""),
    ],
)
def test_copyleft_unknown_and_missing_licences_are_refused(expression, classifiers, licence):
    assert permissive_licence(expression, classifiers, licence) is None
