--- run_folder.lua - the folder of a run of `train`: made, found free, and kept from other writers
-- until the program ends.
local cli = require "kit.cli"
local events = require "kit.events"
local lfs = require "lfs"
local log_fields = require "kit.log_fields"
local pf = require "performer"

local run_folder = {}

--- Makes a folder and those above it.
local function make(path)
  local made = path:sub(1, 1) == "/" and "/" or ""
  for part in path:gmatch "[^/]+" do
    made = made .. part
    local mode = lfs.attributes(made, "mode")
    if mode and mode ~= "directory" then
      cli.fail(1, ("train: can't make the folder %s: %s is a file; choose another --out"):format(
        path, made))
    end
    if not mode then
      local ok, message = lfs.mkdir(made)
      if not ok and lfs.attributes(made, "mode") ~= "directory" then
        cli.fail(1, cli.advise(("train: can't make the folder %s: %s"):format(made, message)))
      end
    end
    made = made .. "/"
  end
end

run_folder.make = make

--- A new folder in runs/ by the name of the data and the time. Who makes a folder has it: of two
-- runs that begin in one second the other takes the next name.
local function make_own(data)
  local name = data:match("([^/]+)/*$"):gsub("%.gz$", ""):gsub("%.[%w.]+$", "")
  local stem = ("runs/%s-%s"):format(name, os.date "%Y%m%d-%H%M%S")
  make "runs"
  for i = 1, 1000 do
    local dir = i == 1 and stem or ("%s-%d"):format(stem, i)
    local ok, message = lfs.mkdir(dir)
    if ok then return dir end
    if not lfs.attributes(dir, "mode") then
      cli.fail(1, cli.advise(("train: can't make the folder %s: %s"):format(dir, message)))
    end
  end
  cli.fail(1, ("train: can't make the folder %s: a thousand have its name; choose an --out"):format(
    stem))
end

--- Keeps every other writer out of the folder until the program ends.
function run_folder.hold(dir)
  local ok, message, code = pf.checkpoint.hold(dir)
  if ok then return end
  if code == "PF_ESTATE" then
    cli.fail(1, ("train: a run trains in %s right now; wait for its end, or stop it"):format(dir))
  end
  cli.fail(1, cli.advise("train: " .. message))
end

--- A folder that holds a run is not written over.
function run_folder.check_free(dir)
  if lfs.attributes(dir .. "/LATEST", "mode") then
    cli.fail(2, ("train: %s holds a run already; go on with it (--resume %s) or choose another "
      .. "--out"):format(dir, cli.quote(dir)))
  end
end

--- Is this the log of a run that ended before its first checkpoint? It may be begun anew.
local function is_log(path)
  local file = lfs.attributes(path, "mode") == "file" and io.open(path, "rb")
  local line = file and file:read "l"
  if file then file:close() end
  local record = line and pf.json.decode(line)
  return file and (not line or type(record) == "table" and record.step ~= nil)
end

--- The same of the table and the events that stand beside it.
local function is_table(path)
  local file = lfs.attributes(path, "mode") == "file" and io.open(path, "rb")
  local line = file and file:read "L"
  if file then file:close() end
  return file and (not line or line == log_fields.csv_head())
end

--- What a run writes under the name, in a folder that holds none yet; nil: nothing, or it is free
-- to be written over.
local function written_as(path, name, settings)
  local step = math.tointeger(name:match "^step%-(%d+)$")
  if step and (step % settings.eval_every == 0 or step == settings.steps) then
    return ("save its step %d"):format(step)
  end
  if name == "log.jsonl" and not is_log(path) then return "write its log" end
  if name == "log.csv" and not is_table(path) then return "write its log as a table" end
  if name == "events.out.tfevents.performer" and settings.tensorboard
    and not events.began(path) then
    return "write its events"
  end
  if name == "loss.svg" then return "draw its picture" end
  if name == "BEST" then return "mark its best step" end
end

--- What stands where this run will write is somebody's: better said now than lost later.
local function check_names(dir, settings)
  for name in lfs.dir(dir) do
    local purpose = written_as(dir .. "/" .. name, name, settings)
    if purpose then
      cli.fail(2, ("train: %s/%s is there already, where this run will %s; move it, or choose "
        .. "another --out"):format(dir, name, purpose))
    end
  end
end

--- The folder of a run from its beginning, made and held: `out`, or one of its own, by the name
-- of the file that `data` is.
function run_folder.fresh(out, settings, data)
  local dir = out
  if dir then make(dir) else dir = make_own(data) end
  run_folder.hold(dir)
  run_folder.check_free(dir)
  check_names(dir, settings)
  return dir
end

return run_folder
