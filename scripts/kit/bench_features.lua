-- kit/bench_features.lua: two cases of `performer bench`. `features`: the error of random
-- features, as theory tells it and as it is measured. `crossover`: the sequence length from
-- which on linear attention is faster than exact attention.
local pf = require "performer"
local core = require "performer.core"
local cli = require "kit.cli"
local tools = require "kit.bench_tools"

local bench = {}

-- ---- features ----

local ROWS = { "iid", "orthogonal", "simplex" }
local PAIRS = 4 -- of other directions, under every projection

--- (PAIRS, heads, 1, d) queries and keys: a head for every norm and one for its negative. x is at
--- a right angle to y, |x + y| = norm.
local function pairs_of(norms, d)
  local queries, keys = {}, {}
  for _ = 1, PAIRS do
    local x, y = core.randn(d), core.randn(d)
    x = x * (1 / math.sqrt((x * x):sum():item()))
    y = y - x * (x * y):sum():item()
    y = y * (1 / math.sqrt((y * y):sum():item()))
    for _, norm in ipairs(norms) do
      for _, sign in ipairs { 1, -1 } do
        local length = sign * norm / math.sqrt(2)
        queries[#queries + 1] = (x * length):reshape(1, d)
        keys[#keys + 1] = (y * length):reshape(1, d)
      end
    end
  end
  local shape = { PAIRS, 2 * #norms, 1, d }
  return pf.concat(queries, 1):reshape(shape), pf.concat(keys, 1):reshape(shape)
end

--- The maps that estimate exp(x.y), or the one that was asked for.
local function maps_of(given)
  local names = {}
  for _, map in ipairs(pf.kernels().maps) do
    if map.softmax and (not given or given == map.name) then names[#names + 1] = map end
  end
  if #names == 0 then
    cli.fail(2, ("bench: the error of an estimate is known for softmax kernels; %s is none"):format(
      given))
  end
  return names
end

--- A kernel: one projection for all heads; a tilted map has the tilt of its norms.
local function kernel_for(map, rows, m, d, norm)
  local options = { head_dim = d, features = m, rows = rows, scale = 1, per_head = false,
                    seed = 7 }
  if map.tilted then options.tilt = core.best_tilt(norm * norm, d) end
  return pf.kernel[map.name](options)
end

--- One survey a norm for tilted maps, whose tilt depends on it; else one for all.
local function surveys(map, rows, m, options, norms)
  local list = {}
  local groups = map.tilted and {} or { norms }
  if map.tilted then
    for i, norm in ipairs(norms) do groups[i] = { norm } end
  end
  for _, group in ipairs(groups) do
    local q, k = pairs_of(group, options.head_dim)
    local heads = core.survey_kernel(kernel_for(map, rows, m, options.head_dim, group[1]), q, k,
      { draws = options.draws })
    for i in ipairs(group) do
      list[#list + 1] = { plus = heads[2 * i - 1], minus = heads[2 * i] }
    end
  end
  return list
end

local function print_norm(map, rows, m, norm, found, options)
  local p = found.plus
  tools.print_record({ kernel = map.name, rows = rows, features = m, norm = norm,
    d = options.head_dim, draws = options.draws, predicted_rel_mse = p.mean.rel_mse,
    coupled_rel_mse = p.mean.coupled_rel_mse, predicted_bias = p.mean.bias,
    measured_rel_mse = p.measured_rel_mse, measured_deviation = p.measured_deviation,
    bias_sigma = p.bias_sigma, bias_sigma_negative = found.minus.bias_sigma }, options)
end

--- Every softmax map, a few numbers of features and norms |x + y|, kinds of rows: predicted
--- (independent rows), coupled (rows as they are drawn) and measured relative mean square error,
--- and the mean of the estimate, for x + y and for -(x + y), in standard errors.
function bench.features(options, given)
  local norms = options.norm and { options.norm } or { 0.5, 1.0, 1.5 }
  local sizes = given.features and { options.features } or { 64, 256 }
  for _, map in ipairs(maps_of(given.kernel)) do
    for _, m in ipairs(sizes) do
      local found = {}
      for i, rows in ipairs(ROWS) do
        if pf.interrupted() then cli.fail(130, "bench: interrupted") end
        pf.seed(1)
        found[i] = surveys(map, rows, m, options, norms)
      end
      for n, norm in ipairs(norms) do
        for i, rows in ipairs(ROWS) do
          print_norm(map, rows, m, norm, found[i][n], options)
        end
      end
    end
  end
end

-- ---- crossover ----

-- Exact attention works in whole blocks of rows: just past one it pays for a block that is almost
-- empty, and would seem to lose. So only whole blocks are compared.
local TOKENS, BLOCK = 2048, 128

local function whole_blocks(length)
  return math.max(BLOCK, math.floor(length / BLOCK + 0.5) * BLOCK)
end

--- One forward and backward of `call`.
local function both(call, rows)
  local tape <close> = pf.tape()
  tape:backward(call(rows.q, rows.k, rows.v), rows.seed)
end

--- Exact and linear attention at a length, in turns: median seconds of each, and how many times
--- longer exact takes.
local function measure(shape, length, options)
  local B, H, d = math.max(1, TOKENS // length), options.heads, shape.head_dim
  local rows = { seed = pf.randn(B, H, length, d) }
  for _, name in ipairs { "q", "k", "v" } do
    rows[name] = (pf.randn(B, H, length, d) * d ^ -0.25):requires_grad()
  end
  local kernel = pf.kernel.softmax { head_dim = d, features = shape.features, seed = 7 }
  local function favor(q, k, v)
    return pf.attention.favor(q, k, v, { kernel = kernel, causal = shape.causal })
  end
  local function exact(q, k, v) return pf.attention.exact(q, k, v, { causal = shape.causal }) end
  local turns = tools.in_turns({
    function() both(exact, rows) end,
    function() both(favor, rows) end,
  }, options.repeats)
  collectgarbage()
  local longer = tools.over(turns, function(seconds) return seconds[1] / seconds[2] end)
  return tools.over(turns, 1), tools.over(turns, 2), longer
end

--- The length at which both take the same time: steps of two until one lies on either side,
--- then between them, by logarithms.
local function find_crossing(shape, options)
  local start = core.crossover_length(shape.head_dim, shape.features, shape.causal)
  local length = whole_blocks(start)
  local below, above, slow, fast, ratio
  for _ = 1, 12 do
    slow, fast, ratio = measure(shape, length, options)
    local point = { length = length, ratio = math.log(ratio) }
    if point.ratio < 0 then below = point else above = point end
    if not below then
      if length <= BLOCK then return BLOCK, slow, fast end
      length = whole_blocks(length // 2)
    elseif not above then
      length = 2 * length
    else
      local share = -below.ratio / (above.ratio - below.ratio)
      local at = below.length * (above.length / below.length) ^ share
      local closest = math.min(math.abs(at / below.length - 1), math.abs(at / above.length - 1))
      if closest < 0.04 or above.length - below.length <= BLOCK then return at, slow, fast end
      length = math.min(math.max(whole_blocks(at), below.length + BLOCK), above.length - BLOCK)
    end
  end
  return length, slow, fast
end

local function write_table(path, rows, options)
  local info = pf.info()
  local text = cli.json { format = "performer crossover", cpu = info.cpu_name,
                          threads = options.threads, rows = pf.json.list(rows) }
  local file, message = io.open(path, "w")
  local ok = file
  if file then
    ok, message = file:write(text, "\n")
    local closed, why = file:close()
    if ok and not closed then ok, message = nil, why end
  end
  if not ok then
    cli.fail(1, cli.advise(("bench: can't write the table: %s"):format(message)))
  end
end

--- The shapes of the engine's table, or the one that was asked for.
local function shapes_of(options, given)
  if not given.head_dim and not given.features and not given.causal then
    return pf.attention.crossover()
  end
  local shapes = {}
  for _, causal in ipairs { false, true } do
    if causal or not options.causal then
      shapes[#shapes + 1] = { head_dim = options.head_dim, features = options.features,
                              causal = causal }
    end
  end
  return shapes
end

--- From which length on linear attention is faster, forward and backward, for the shapes of the
--- table that attention "auto" reads; --out FILE writes such a table.
function bench.crossover(options, given)
  local rows = {}
  if not given.heads then options.heads = 4 end
  for i, shape in ipairs(shapes_of(options, given)) do
    local length, slow, fast = find_crossing(shape, options)
    rows[i] = { head_dim = shape.head_dim, features = shape.features, causal = shape.causal,
                length = math.floor(length + 0.5) }
    tools.print_record({ case = "crossover", L = rows[i].length, d = shape.head_dim,
      m = shape.features, causal = shape.causal, exact_ms = 1e3 * slow, favor_ms = 1e3 * fast,
      H = options.heads }, options)
  end
  if options.out then write_table(options.out, rows, options) end
end

return bench
