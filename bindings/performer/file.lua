-- performer/file.lua: single files, by the engine's access to them: where a host has an access of
-- its own, or a sandbox none, these have the same. Paths that begin with "memory:" name files in
-- the engine's memory, here as in every call that takes a path.
local core = require "performer.core"
local util = require "performer.util"

local file = {}

--- The bytes of a file as a string; nil, message, code.
file.read = core.file_read

--- Writes a string as a file, in one step: beside, synced, renamed; true, or nil, message, code.
file.write = core.file_write

--- How many bytes a file has; nil, message, code.
file.size = core.file_size

--- Removes a file, or a folder with all that is in it; true, or nil, message, code.
file.remove = core.file_remove

--- Makes a folder, and those above it, where they are not there; true, or nil, message, code.
file.make_folder = core.file_make_folder

--- The names in a folder, sorted; nil, message, code.
function file.list(path)
  local names, message, code = core.file_list(path)
  if not names then return nil, message, code end
  table.sort(names)
  return names
end

-- ---- bytes in the place of a file ---------------------------------------------------

--- f(path) with the bytes of a string as the file `path`, which is gone when it returns: what is
--- read from it is read by then. Scripts that have no files have this one.
function file.with(bytes, f)
  if type(bytes) ~= "string" then
    util.fail("bytes: a string is needed, got %s", core.kind(bytes))
  end
  local place, _ <close> = core.file_bytes(bytes)
  return f(place)
end

return file
