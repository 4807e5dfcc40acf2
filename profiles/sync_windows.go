package profiles

import "os"

// syncDir does nothing: Windows has no such call for folders, NTFS writes renames to its journal.
func syncDir(*os.Root) {}
