--- checkpoint_share.lua - a run's checkpoint for all ranks: rank 0 alone needs to see the folder.
local cli = require "kit.cli"
local lfs = require "lfs"
local pf = require "performer"
local ranks = require "kit.ranks"
local saved = require "kit.saved"

local checkpoint_share = {}

-- Where other ranks than the first have the checkpoint until they have opened it.
local PLACE = "memory:checkpoint"

--- The folder of the checkpoint that was opened: of a run, of a mark in it (BEST), or itself.
local function folder_of(path, opened)
  if lfs.attributes(path .. "/manifest.json", "mode") then return path end
  return ("%s/step-%d"):format(cli.need(saved.run_folder(path)), opened.state.step)
end

--- Its files, one after the other, to those that have none.
local function share_files(folder)
  local here = ranks.here()
  for _, name in ipairs(cli.need(ranks.once(pf.file.list, folder))) do
    here:share_file(folder and folder .. "/" .. name, PLACE .. "/" .. name)
  end
end

--- On every rank what rank 0 opens.
local function open_everywhere(path, options)
  local opened, folder
  if ranks.first() then
    opened = cli.need(saved.open(path, options))
    folder = folder_of(path, opened)
  else
    cli.need(pf.file.make_folder(PLACE))
  end
  share_files(folder)
  if ranks.first() then return opened end
  opened = cli.need(saved.open(PLACE, options))
  pf.file.remove(PLACE)
  return opened
end

--- saved.open on every rank: rank 0 alone needs to see the folder. To lend the average is a verb of
-- its own, since each rank may hold a part of it, so it follows when all have the checkpoint.
function checkpoint_share.open(path, options)
  if not ranks.several() then return saved.open(path, options) end
  local here = ranks.here()
  if not here:first() then here:patience(3600) end -- a large file takes rank 0 its time
  local average = options.average and ranks.once(saved.holds_average, path)
  local opened = open_everywhere(path, saved.without_average(options, average))
  here:patience(0)
  return average and saved.lend_average(opened) or opened
end

return checkpoint_share
