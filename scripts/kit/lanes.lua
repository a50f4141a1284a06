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

--- The number next to `n` that divides `rows`, and that so many ranks can have; nil: none.
local function divisor(rows, n)
  for apart = 1, rows do
    for _, near in ipairs { n - apart, n + apart } do
      if near >= ranks.size() and near <= rows and rows % near == 0 then return near end
    end
  end
end

--- A fresh run has a part of a step for each rank.
local function check_ranks(n, option)
  if n >= ranks.size() then return end
  cli.fail(2, ("train: %s %d is for at most %s, and %d were started; give %s %d, or more"):format(
    option, n, cli.count(n, "rank"), ranks.size(), option, ranks.size()))
end

local function check_batch(settings, n)
  if settings.batch % n == 0 then return end
  local lanes_wanted = divisor(settings.batch, n)
  cli.fail(2, ("train: --batch %d is not divided by its %d lanes; try %s--batch %d"):format(
    settings.batch, n, lanes_wanted and ("--lanes %d, or "):format(lanes_wanted) or "",
    math.ceil(settings.batch / n) * n))
end

--- The parts of a step's batch. With --segments each row of one is in so many again, and
-- settings.lanes counts all of them: what ranks can have.
function lanes.of_rows(settings) return settings.lanes // (settings.segments or 1) end

--- How many ranks share a row, each of which has `segments`, when `n` rows at a time are to be had;
-- nil: it doesn't come out. wish: --row-ranks; size: ranks, other than there are.
local function row_ranks(segments, n, wish, size)
  size = size or ranks.size()
  for share = math.min(segments, size), 1, -1 do
    local groups = size // share
    if size % share == 0 and (not n or groups <= n) and (not wish or share == wish) then
      return share
    end
  end
end

--- "2 ranks, or 4": those next to what there is that can go on with a run's rows.
local function other_ranks(segments, n, wish)
  local less, most = ranks.size(), (wish or segments) * n
  repeat less = less - 1 until less == 0 or row_ranks(segments, n, wish, less)
  local more = ranks.size()
  repeat more = more + 1 until more > most or row_ranks(segments, n, wish, more)
  if less == 0 or more > most then return cli.count(less == 0 and more or less, "rank") end
  return ("%s, or %d"):format(cli.count(less, "rank"), more)
end

--- The same, or the end. begun: a run whose lanes stay.
local function need_row_ranks(segments, n, wish, begun)
  local share = row_ranks(segments, n, wish)
  if share then return share end
  local size = ranks.size()
  if wish and size % wish ~= 0 then
    cli.fail(2, ("train: --row-ranks %d does not divide the %s; leave it out, or start %d"):format(
      wish, cli.count(size, "rank"), (size // wish + 1) * wish))
  elseif wish and wish > segments then
    cli.fail(2, ("train: --row-ranks %d, but rows are in %s: at most so many ranks share one")
      :format(wish, cli.count(segments, "segment")))
  end
  n = n or 1
  local lanes_wanted = size // (wish or row_ranks(segments) or 1)
  cli.fail(2, ("train: %s can't share %s of rows in %s at a time; %sstart %s"):format(
    cli.count(size, "rank"), cli.count(n, "lane"), cli.count(segments, "segment"),
    begun and "" or ("give --lanes %d, or "):format(lanes_wanted),
    other_ranks(segments, n, wish)))
end

--- Each segment of a row is a lane, or with several lanes of rows a leaf of one.
local function check_segments(settings, options)
  local n = settings.segments
  local given = { carry = settings.carry,
                  bidirectional = settings.bidirectional, -- whose rows are packed
                  accumulate = settings.accumulate > 1,
                  sliced = settings.sliced > 1 or settings.slice_length }
  for _, name in ipairs { "carry", "bidirectional", "accumulate", "sliced" } do
    if given[name] then
      cli.fail(2, ("train: --segments shares rows among the ranks, and goes without --%s"):format(
        name))
    end
  end
  if not settings.lanes and not options.row_ranks then check_ranks(n, "--segments") end
  local share = need_row_ranks(n, settings.lanes, options.row_ranks)
  local rows = settings.lanes or ranks.size() // share
  check_batch(settings, rows)
  settings.lanes = n * rows
  if settings.lanes >= 65536 then
    cli.fail(2, ("train: --lanes %d times --segments %d is too much: at most 65535"):format(rows,
      n))
  end
end

--- A fresh run has a lane for each of its ranks, unless it is told.
function lanes.settle(settings, options)
  if settings.segments then return check_segments(settings, options) end
  if options.row_ranks then
    cli.fail(2, "train: --row-ranks is for rows in parts: give --segments, too")
  end
  settings.lanes = settings.lanes or ranks.size()
  check_ranks(settings.lanes, "--lanes")
  check_batch(settings, settings.lanes)
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
function lanes.begin(settings, options, model, optimizer)
  if settings.lanes < ranks.size() then
    cli.fail(2, ("train: the run has %d lane%s, so it goes on with at most %d rank%s, not %d")
      :format(settings.lanes, settings.lanes == 1 and "" or "s", settings.lanes,
      settings.lanes == 1 and "" or "s", ranks.size()))
  end
  if settings.lanes == 1 then return end
  if settings.segments then
    check_length(settings)
    ranks.share_rows(need_row_ranks(settings.segments, lanes.of_rows(settings), options.row_ranks,
                                    true))
  elseif options.row_ranks then
    cli.fail(2, "train: --row-ranks is for rows in parts, and this run has whole ones")
  end
  optimizer:set_lanes(settings.lanes)
  if ranks.several() then ranks.here():share(model) end
end

return lanes
