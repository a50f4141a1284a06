--- checkpoint_share.lua - a run's checkpoint for all ranks: rank 0 alone needs to see the folder,
-- and alone reads it. The others hold none of its files: what they open and read there it answers.
local cli = require "kit.cli"
local core = require "performer.core"
local lfs = require "lfs"
local ranks = require "kit.ranks"
local saved = require "kit.saved"

local checkpoint_share = {}

--- The folder of the checkpoint that was opened: of a run, of a mark in it (BEST), or itself.
local function folder_of(path, opened)
  if lfs.attributes(path .. "/manifest.json", "mode") then return path end
  return ("%s/step-%d"):format(cli.need(saved.run_folder(path)), opened.state.step)
end

--- On every rank what rank 0 opens. It goes first, and finds which checkpoint is meant.
local function open_everywhere(path, options)
  local here, opened, folder = ranks.here(), nil, nil
  if ranks.first() then
    opened = cli.need(saved.open(path, options))
    folder = folder_of(path, opened)
  end
  folder = here:share(folder)
  if not ranks.first() then
    function options.through(f, ...) return core.comm_read_files(folder, f, ...) end
    opened = cli.need(saved.open(folder, options))
  end
  core.comm_share_files(folder)
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
