--- whole_file.lua - a text that takes a file's place whole, or not at all.
local whole_file = {}

--- Writes `text` beside `path`, and renames it; true, or nil, message.
function whole_file.write(path, text)
  local beside = path .. ".tmp"
  local file, message = io.open(beside, "wb")
  if not file then return nil, ("%s: %s"):format(path, message:match "[^:]*$":gsub("^ ", "")) end
  local ok
  ok, message = file:write(text)
  local closed, why = file:close()
  if ok and not closed then ok, message = nil, why end
  if ok then ok, message = os.rename(beside, path) end
  if ok then return true end
  os.remove(beside)
  return nil, ("%s: %s"):format(path, message)
end

return whole_file
