"""What a dataset version is like, whether it still resembles the champion's, and what was trained on before.

Guarantees: nothing here changes a row; suspicious labels are listed, never dropped; the same data gives the same profile.
"""

from adaptory.profile.drift import Comparison
from adaptory.profile.profile import Profile, profile, read

__all__ = ["Comparison", "Profile", "profile", "read"]
