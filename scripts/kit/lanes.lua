--- lanes.lua - the lanes of a run's steps, by which it has the same bits on any number of ranks,
-- and what else `train` is told of ranks.
local cli = require "kit.cli"
local ranks = require "kit.ranks"

local lanes = {}

--- Complaints about parsed options that need no file.
function lanes.check_options(options)
  if options.continue and options.resume then
    cli.fail(2, "train: give --continue with --out FOLDER, or --resume FOLDER, not both")
  end
  if options.continue and not options.out then
    cli.fail(2, "train: --continue goes on with the run in --out FOLDER; give that, too")
  end
  if options.find_lr and ranks.several() then
    cli.fail(2, "train: --find-lr looks with one rank; start it without mpirun")
  end
end

--- The largest number up to `most` that divides `rows`.
local function divisor(rows, most)
  while rows % most ~= 0 do most = most - 1 end
  return most
end

--- A fresh run has a part of a step for each rank.
local function check_ranks(n, option)
  if n >= ranks.size() then return end
  cli.fail(2, ("train: %s %d is for at most %s, and %d were started; give %s %d, or more"):format(
    option, n, cli.count(n, "rank"), ranks.size(), option, ranks.size()))
end

--- Each segment of a row is a lane.
local function check_segments(settings)
  local n = settings.segments
  local given = { lanes = settings.lanes, carry = settings.carry,
                  bidirectional = settings.bidirectional, -- whose rows are packed
                  accumulate = settings.accumulate > 1,
                  sliced = settings.sliced > 1 or settings.slice_length }
  for _, name in ipairs { "lanes", "carry", "bidirectional", "accumulate", "sliced" } do
    if given[name] then
      cli.fail(2, ("train: --segments shares rows among the ranks, and goes without --%s"):format(
        name))
    end
  end
  check_ranks(n, "--segments")
  settings.lanes = n
end

--- A fresh run has a lane for each of its ranks, unless it is told.
function lanes.settle(settings)
  if settings.segments then return check_segments(settings) end
  settings.lanes = settings.lanes or ranks.size()
  check_ranks(settings.lanes, "--lanes")
  if settings.batch % settings.lanes ~= 0 then
    cli.fail(2, ("train: --batch %d is not divided by its %d lanes; try --lanes %d, or --batch %d")
      :format(settings.batch, settings.lanes, divisor(settings.batch, settings.lanes),
      math.ceil(settings.batch / settings.lanes) * settings.lanes))
  end
end

--- Does a model's tree hold a table that steps move by what they have seen?
local function moves_table(node)
  if (node.options or {}).attention == "routing" then return true end
  for _, child in ipairs(node.children or {}) do
    if moves_table(child) then return true end
  end
  return false
end

--- Segments of fewer positions are not worth what they say to each other.
local LEAST = 16
local function check_length(settings)
  if settings.length // settings.segments >= LEAST then return end
  cli.fail(2, ("train: --segments %d leaves %d positions of --length %d to a part, which has at "
    .. "least %d; try --segments %d"):format(settings.segments,
    settings.length // settings.segments, settings.length, LEAST,
    math.max(1, settings.length // LEAST)))
end

--- Before the first step of a start: the optimizer's lanes, and the same weights on all ranks.
function lanes.begin(settings, model, optimizer)
  if settings.lanes < ranks.size() then
    cli.fail(2, ("train: the run has %d lane%s, so it goes on with at most %d rank%s, not %d")
      :format(settings.lanes, settings.lanes == 1 and "" or "s", settings.lanes,
      settings.lanes == 1 and "" or "s", ranks.size()))
  end
  if settings.lanes == 1 then return end
  if settings.carry then
    cli.fail(2, "train: --carry hands on from step to step what one row's lane has seen; it goes "
      .. "with one lane")
  end
  if moves_table(model:tree()) then
    cli.fail(2, "train: routing attention moves its centroids by all rows of a step, in their "
      .. "order; it goes with one lane")
  end
  if settings.segments then check_length(settings) end
  optimizer:set_lanes(settings.lanes)
  if ranks.several() then ranks.here():share(model) end
end

return lanes
