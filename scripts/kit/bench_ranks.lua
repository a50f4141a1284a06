--- kit/bench_ranks.lua: `performer bench ranks --simulate`: a training step on hosts that one does
-- not have yet: time, efficiency, bytes and messages by playing it (ranks_model.lua), each beside
-- what the closed formula says.
local attention = require "kit.attention"
local cli = require "kit.cli"
local pf = require "performer"
local ranks_model = require "kit.ranks_model"
local svg = require "kit.svg"
local tools = require "kit.bench_tools"
local whole_file = require "kit.whole_file"

local bench_ranks = {}

--- Options of its own, rows of cli.add.
bench_ranks.rows = {
  { "simulate", "flag", nil, "ranks: play a step on hosts that need not be there" },
  { "way", ranks_model.WAYS, nil, "ranks: only this way to share the work" },
  { "hosts", "list", nil, "ranks: how many, or several", "2,4,8,16,64,512" },
  { "ranks-per-host", "positive", 1, "ranks: of a host, which share its link and its rate" },
  { "link", "link", "10g",
    "ranks: of a host: 1g, 10g, 100g, or microseconds:MB/s as measured: 50:117" },
  { "rate", "number", 1200, "ranks: GFLOP/s of a host" },
  { "params", "positive", nil, "ranks: parameters", "those of --layers, --heads, --vocab ..." },
  { "lanes", "positive", nil, "ranks: lanes of a step", "one a rank, or a group of them" },
  { "row-ranks", "positive", nil, "ranks: that share each row in segments, while groups of so many "
    .. "have other rows; then with the gradient's sum", "all" },
  { "buckets", "positive", nil, "ranks: parts in which the gradient travels",
    "as the engine's: 65,536 numbers a rank at most; overlap: 6 or more" },
  { "sum", { "direct", "halving" }, "direct", "ranks: how gradients are summed: to the owners of "
    .. "their parts and back, as the engine does, or by halves" },
}
for _, row in ipairs(bench_ranks.rows) do row.group = "Ranks" end

local HOSTS = "2,4,8,16,64,512"
local MOST_RANKS, MOST_MESSAGES = 4096, 8e6 -- that are played: some seconds, and half a minute

-- ---- what was asked for ----

local function hosts_of(options)
  local list = {}
  for word in ((options.hosts or HOSTS) .. ","):gmatch "([^,]*)," do
    local n = math.tointeger(tonumber(word))
    if not n or n < 1 then
      cli.fail(2, ("bench: --hosts: '%s' is no number of hosts: give 8 or a list: 2,8,64")
        :format(word))
    end
    local ranks = n * options.ranks_per_host
    if ranks < 2 or ranks > MOST_RANKS then
      cli.fail(2, ("bench: --hosts %d with --ranks-per-host %d: %d ranks; what is played has 2 to "
        .. "%d"):format(n, options.ranks_per_host, ranks, MOST_RANKS))
    end
    list[#list + 1] = n
  end
  table.sort(list)
  return list
end

--- "10g", or "30:1100".
local function link_of(text)
  local link = ranks_model.links[text]
  if link then return link end
  local wait, rate = text:match "^([%d.]+):([%d.]+)$"
  wait, rate = tonumber(wait), tonumber(rate)
  if not wait or not rate or rate <= 0 then
    cli.fail(2, ("bench: --link: '%s' is no link: give 1g, 10g, 100g, or microseconds:MB/s, such "
      .. "as 50:117"):format(text))
  end
  return { alpha = 1e-6 * wait, beta = 1e-6 / rate }
end

--- The model's figures: parameters, flops a token, and those of its blocks and their attention.
local function shape_of(options)
  local width = options.heads * options.head_dim
  local hidden = options.hidden or 4 * width
  local weights = 4 * width * width + 2 * width * hidden
  local forward, backward = tools.attention_flops(attention.LINEAR, options, options.tokens, true)
  local own = options.heads * (forward + backward)
  local block = 6 * weights + own
  local params = options.params or options.layers * weights + options.vocab * width
  return {
    tokens = options.tokens, rows = options.batch, layers = options.layers, lanes = options.lanes,
    buckets = options.buckets, sum = options.sum, params = params, row_ranks = options.row_ranks,
    rate = 1e9 * options.rate / options.ranks_per_host,
    flops = options.params and 6 * params * block / (6 * weights)
      or 6 * params + options.layers * own,
    block_flops = block, attention = own / block,
    state = 4 * options.heads * options.features * (options.head_dim + 1),
  }
end

--- Words of the options that can't be together.
local function check(options, shape, hosts)
  if options.rate <= 0 then cli.fail(2, "bench: --rate 0: a host that computes nothing") end
  if shape.buckets and shape.buckets > shape.params then
    cli.fail(2, ("bench: --buckets %d for %d parameters"):format(shape.buckets, shape.params))
  end
  local row = options.row_ranks
  if row and ranks_model.has_whole_rows(options.way) then
    cli.fail(2, ("bench: --row-ranks is for rows in segments, and --way %s has whole ones")
      :format(options.way))
  end
  for _, n in ipairs(hosts) do
    local ranks = n * options.ranks_per_host
    if row and ranks % row ~= 0 then
      cli.fail(2, ("bench: --row-ranks %d does not divide the %d ranks"):format(row, ranks))
    end
    if options.lanes and options.lanes < ranks // (row or 1) then
      cli.fail(2, ("bench: --lanes %d for %d %s: there must be a lane for each"):format(
        options.lanes, ranks // (row or 1), row and "groups of ranks" or "ranks"))
    end
    if row and options.sum == "halving" then
      cli.fail(2, "bench: --sum halving: groups that share rows sum directly")
    end
    if options.sum == "halving" and not ranks_model.can_halve(options.lanes or ranks, ranks) then
      cli.fail(2, ("bench: --sum halving: %d lanes on %d ranks; it takes 2, 4, 8 ... ranks with as "
        .. "many lanes each, 1, 2, 4 ..."):format(options.lanes or ranks, ranks))
    end
  end
end

-- ---- playing ----

--- A record of a way on so many hosts; nil where playing it would take minutes.
local function record_of(way, shape, world, options)
  shape.ranks = world.hosts * world.per_host
  local judged = ranks_model.formula(way, shape, world)
  if judged.messages > MOST_MESSAGES then
    cli.say("bench: %s on %d ranks is left out: %d messages a step, over %d; 2, 4, 8 ... ranks "
      .. "need fewer", way, shape.ranks, judged.messages, MOST_MESSAGES)
    return
  end
  if pf.interrupted() then cli.fail(130, "bench: interrupted") end
  local played = ranks_model.play(way, shape, world)
  return { case = "ranks", simulated = true, way = way, sum = played.sum, ranks = shape.ranks,
           hosts = world.hosts, alpha_us = 1e6 * world.link.alpha,
           mb_s = 1e-6 / world.link.beta, rate_gflops = options.rate, params = shape.params,
           tokens = shape.tokens, layers = shape.layers, B = shape.rows, state_bytes = shape.state,
           lanes = played.sum and played.lanes, row_ranks = shape.row_ranks,
           step_ms = 1e3 * played.seconds,
           talk_ms = 1e3 * played.talk,
           efficiency = played.efficiency,
           tokens_per_s = shape.ranks * played.each / played.seconds,
           messages = played.messages, bytes = played.bytes, bytes_per_host = played.host_bytes,
           formula_ms = judged.seconds and 1e3 * judged.seconds,
           from_formula = judged.seconds and played.seconds / judged.seconds - 1 }
end

local function heading(options, shape, link)
  return ("played, not measured: link %.4g us, %.4g MB/s; a host %.4g GFLOP/s, %d rank%s; %d "
    .. "parameters, %d tokens a rank; segments: %d layers, %d row%s, state %s"):format(
    1e6 * link.alpha, 1e-6 / link.beta, options.rate, options.ranks_per_host,
    options.ranks_per_host == 1 and "" or "s", shape.params, shape.tokens, shape.layers, shape.rows,
    shape.rows == 1 and "" or "s", tools.bytes(shape.state))
end

--- What columns mean, below the table.
local function explain(records)
  cli.say("efficiency: what a rank does beside one alone; of a host: what the busiest sends in a "
    .. "step; formula ms: a step by closed formulas, off: how far what was played is from that")
  for _, record in ipairs(records) do
    if record and not record.sum then
      return cli.say("scan, gather, chain: rows alone; --row-ranks plays the gradient's sum, too")
    end
  end
end

local function picture(records, options)
  local series = {}
  for _, way in ipairs(ranks_model.WAYS) do
    local points = {}
    for _, record in ipairs(records) do
      if record.way == way then points[#points + 1] = { record.ranks, 100 * record.efficiency } end
    end
    if #points > 0 then series[#series + 1] = { name = way, points = points, marks = true } end
  end
  local chart = svg.chart { title = ("Efficiency of a step, played: link %s, %d tokens a rank")
    :format(options.link, options.tokens), x = "ranks", y = "tokens a second of a rank, % of one "
    .. "alone", log_x = 2, series = series }
  local ok, message = whole_file.write(options.out, chart)
  cli.need(ok, ("bench: can't write the picture: %s"):format(message))
  cli.say("bench: wrote %s", options.out)
end

function bench_ranks.run(options)
  if not options.simulate then
    cli.fail(2, "bench: ranks that are measured have to be started, which this command does not: "
      .. "mpirun -n 2 --map-by ppr:1:node build/release/examples/ping says what your link does, "
      .. "and performer bench ranks --simulate --link 50:117 plays a step on such links")
  end
  local hosts, link, shape = hosts_of(options), link_of(options.link), shape_of(options)
  check(options, shape, hosts)
  options.heading = heading(options, shape, link)
  local records = {}
  for _, n in ipairs(hosts) do
    local world = { hosts = n, per_host = options.ranks_per_host, link = link,
                    near = ranks_model.near }
    for _, way in ipairs(ranks_model.WAYS) do
      local fits = not (options.row_ranks and ranks_model.has_whole_rows(way))
      if fits and (not options.way or options.way == way) then
        local record = record_of(way, shape, world, options)
        records[#records + 1] = record
        if record then tools.print_record(record, options) end
      end
    end
  end
  if not options.json and #records > 0 then explain(records) end
  if options.out then picture(records, options) end
end

return bench_ranks
