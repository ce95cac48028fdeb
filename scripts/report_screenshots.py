"""Pictures of the web page of a run: `python scripts/report_screenshots.py --db runs.db docs`.

Writes report-light-wide.png, report-dark-wide.png, report-light-narrow.png and report-dark-narrow.png with a headless
Chromium (`scripts/install_debian.sh` installs one). The page takes the machine's own typeface; the pictures in docs/
were made where Inter is installed (Debian: fonts-inter).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

# In CSS pixels. Chromium's windows are at least 500 wide, so the phone is a frame of its own inside one.
WIDE, NARROW, WINDOW = (1180, 1990), (390, 2300), 520
SCHEMES = {"light": "1", "dark": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--db", help="history; by default IPROBE_DB or introspection.db")
    parser.add_argument("--run", help="run; the latest by default")
    parser.add_argument("--browser", default="chromium-headless-shell")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        page = scratch / "report.html"
        make = [sys.executable, "-m", "iprobe.main", "report", *([args.run] if args.run else []), "--html", str(page)]
        subprocess.run([*make, *(["--db", args.db] if args.db else [])], check=True, stdout=subprocess.DEVNULL)
        frame = scratch / "narrow.html"
        width, height = NARROW
        frame.write_text(
            '<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0">'
            f'<iframe src="report.html" style="border:0;width:{width}px;height:{height}px"></iframe>',
            encoding="utf-8",
        )
        for scheme, setting in SCHEMES.items():
            for size, source, (width, height) in (("wide", page, WIDE), ("narrow", frame, NARROW)):
                shot = scratch / "shot.png"
                take(args.browser, source, shot, max(width, WINDOW), height, setting, scratch / "profile")
                save(shot, args.folder / f"report-{scheme}-{size}.png", width)


def take(browser: str, page: Path, shot: Path, width: int, height: int, scheme: str, profile: Path) -> None:
    subprocess.run(
        [
            browser,
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )


def save(shot: Path, target: Path, width: int) -> None:
    """The left ``width`` pixels with a palette of 256 colours: a third of the size, and nobody sees it."""
    with Image.open(shot) as image:
        cropped = image.convert("RGB").crop((0, 0, width, image.height))
        cropped.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
