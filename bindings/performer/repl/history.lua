-- performer/repl/history.lua: what was typed, kept between sessions in a file of the user's: each
-- entry is one line, its own lines joined by "\n". Sessions append one entry at a time, so that
-- several that run at once keep each other's.
--
-- PF_HISTORY names another file, or is `off`. What begins with a blank is not kept.
local history = {}

local MOST = 1 << 20 -- bytes of the file; a session that begins cuts the oldest beyond it

local function is_folder(path)
  local opened = io.open(path .. "/.")
  if opened then opened:close() end
  return opened ~= nil
end

--- Where the file is; nil: there is none. A home that isn't there is not made.
function history.path(get, has_home)
  get, has_home = get or os.getenv, has_home or is_folder
  local own = get "PF_HISTORY"
  if own == "off" or own == "" then return nil end
  if own then return own end
  local state, home = get "XDG_STATE_HOME", get "HOME"
  if state and state:sub(1, 1) == "/" then return state .. "/performer/history" end
  if not home or home == "" or not has_home(home) then return nil end
  return home .. "/.local/state/performer/history"
end

function history.line(entry)
  return (entry:gsub("[\\\n\0]", { ["\\"] = "\\\\", ["\n"] = "\\n", ["\0"] = "" }))
end

function history.entry(line)
  return (line:gsub("\\(.)", { ["\\"] = "\\", n = "\n" }))
end

--- Entries of the file, oldest first.
function history.load(console, path)
  local list = {}
  for line in (path and console.history(path, MOST) or ""):gmatch "[^\n]+" do
    list[#list + 1] = history.entry(line)
  end
  return list
end

--- Keeps an entry, unless it is the last one again.
function history.keep(console, path, entry, last)
  if entry:find "^%s" or entry == last then return last end
  console.remember(entry)
  if path then console.append(path, history.line(entry) .. "\n") end
  return entry
end

return history
