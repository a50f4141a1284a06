-- patterns.lua - which keys each query sees, by every rule of patterns: the definitions, written
-- from the papers and from nothing else, pair by pair, and options to try them with. A rule of the
-- engine's table without a definition here fails patterns_spec.
--
-- Positions count from 0. `at` says what is asked: length, keys, causal, limits (list), head,
-- buckets (lists of a round). A query stands at `place`, its last key (full attention: its own
-- number), -1 for none, in all that counts distances.
local pf = require "performer"
local philox = require "spec.support.philox"

local patterns = {}

local PATTERN_DRAW = 8 -- the purpose of random blocks

-- ---- definitions -----------------------------------------------------------------------

--- rules[name](o, at): a function (place, j, i) that says whether, or how often, the rule has a pair.
local rules = {}
patterns.rules = rules

--- Longformer, 3.1: a window, dilated; the first `global` tokens see and are seen by all.
function rules.sliding(o, at)
  local back = at.causal and o.window - 1 or o.window
  local ahead = at.causal and 0 or o.ahead < 0 and o.window or o.ahead
  return function(p, j)
    if p < o.global or j < o.global then return true end
    local steps = (p - j) / o.dilation
    return steps == math.floor(steps) and -ahead <= steps and steps <= back
  end
end

--- Either of two conditions, or the one that `part` names.
local function parts(o, near, far)
  return function(p, j)
    if o.part == "near" then return near(p, j) end
    if o.part == "far" then return far(p, j) end
    return near(p, j) or far(p, j)
  end
end

--- Sparse Transformer, 4.3: A1 = {max(0, p - l) .. p}, A2 = {j : (p - j) mod l = 0}.
function rules.strided(o)
  local l = o.stride
  return parts(o, function(p, j) return math.abs(p - j) <= l end,
    function(p, j) return (p - j) % l == 0 end)
end

--- A1 = {j : j // l = p // l}, A2 = {j : j mod l in {l - c .. l - 1}}.
function rules.fixed(o)
  local l, c = o.stride, o.last
  return parts(o, function(p, j) return p // l == j // l end,
    function(_, j) return j % l >= l - c end)
end

--- `count` different numbers below n (Floyd 1987), as a set.
local function sample(stream, count, n)
  local drawn = {}
  for k = 0, math.min(count, n) - 1 do
    local top = n - math.min(count, n) + k
    local number = philox.below(stream, k, top + 1)
    drawn[drawn[number] and top or number] = true
  end
  return drawn
end

--- Big Bird, section 2: blocks around, global ones at the ends, random ones; a causal one sees
--- blocks that are past, and its random blocks are before its window.
function rules.bigbird(o, at)
  local blocks = math.ceil(at.keys / o.block)
  local side = o.window // 2
  local function global(b)
    return b < o.global or not at.causal and b >= blocks - o.global and b < blocks
  end
  local function near(B, b)
    return math.abs(B - b) <= side and (b <= B or not at.causal)
  end
  local random = {} -- of each block of queries
  local function drawn(B)
    if random[B] then return random[B] end
    local free, set = {}, {}
    for b = 0, at.causal and B - side - 1 or blocks - 1 do
      if not global(b) and not near(B, b) then free[#free + 1] = b end
    end
    local stream = philox.stream(o.seed, PATTERN_DRAW, o.layer << 32 | at.head, B)
    for k in pairs(sample(stream, o.random, #free)) do set[free[k + 1]] = true end
    random[B] = set
    return set
  end
  return function(p, j)
    local B, b = p // o.block, j // o.block
    return global(B) or global(b) or near(B, b) or drawn(B)[b] == true
  end
end

--- Lists: of each block of queries the blocks of keys (from 0).
function rules.listed(o, at)
  local sets = {}
  for q, row in ipairs(at.list) do
    sets[q - 1] = {}
    for _, key in ipairs(row) do sets[q - 1][key] = true end
  end
  return function(_, j, i) return sets[i // o.block][j // o.block] == true end
end

--- Of one round: which keys each query looks at, sets by query. The room is that of the query's own
--- place; ~b is a masked key of room b.
local function look(window, query, key, at)
  local sets = {}
  for i = 0, at.length - 1 do
    local own = i + at.keys - at.length
    local limit, room = at.limit_of(i), query[own + 1]
    local members, here = {}, nil
    if room and room < 0 then room = ~room end
    for j = 0, limit - 1 do
      if key[j + 1] == room then
        members[#members + 1] = j
        if j == own then here = #members end
      end
    end
    local first, last = #members - window + 1, #members
    if not at.causal then
      local before = 0
      for _, j in ipairs(members) do before = before + (j < own and 1 or 0) end
      first, last = before - window + 1, before + (here and 1 or 0) + window
    end
    sets[i] = {}
    for n = math.max(first, 1), math.min(last, #members) do sets[i][members[n]] = 1 end
  end
  return sets
end

--- Reformer, section 2, with rooms for chunks: the last `window` members of the query's bucket, in
--- each round; united, or a pair as often as rounds hold it.
function rules.lsh(o, at)
  local rounds = {}
  for t, numbers in ipairs(at.buckets) do rounds[t] = look(o.window, numbers, numbers, at) end
  return function(_, j, i)
    local count = 0
    for _, sets in ipairs(rounds) do count = count + (sets[i][j] or 0) end
    return o.pairs == "once" and math.min(count, 1) or count
  end
end

--- Routing Transformer: the same of one round of clusters, of keys and (a second list) queries.
function rules.routing(o, at)
  local sets = look(o.window, at.buckets[2] or at.buckets[1], at.buckets[1], at)
  return function(_, j, i) return sets[i][j] or 0 end
end

-- ---- matrices --------------------------------------------------------------------------

--- A rule's options with the table's defaults.
local function resolve(rule, options)
  local all = {}
  for _, option in ipairs(rule.options) do
    all[option.name] = tonumber(option.default) or option.default
  end
  for name, value in pairs(options) do all[name] = value end
  return all
end

--- How many keys query i sees without the rule.
local function limit_of(at, i)
  if at.limits then return at.limits[i + 1] end
  return at.causal and math.max(0, math.min(i + 1 + at.keys - at.length, at.keys)) or at.keys
end

--- Rules by which a query sees its own key only where it sees no other.
local self_last = {
  lsh = function() return true end,
  routing = function(at) return #at.buckets == 1 end,
}

local function put_self_last(matrix, at)
  for i, row in ipairs(matrix) do
    local own, others = i + at.keys - at.length, 0
    if own >= 1 and own <= at.limit_of(i - 1) then
      for j, seen in ipairs(row) do others = others + (j ~= own and seen or 0) end
      row[own] = others == 0 and 1 or 0
    end
  end
end

--- Rows of counts, 0 or 1 but where a rule says otherwise. rule: a row of pf.patterns(); at: as
--- above, with defaults.
function patterns.matrix(rule, options, at)
  local define = rules[rule.name] or
    error(("the pattern '%s' has no definition in spec/support/patterns.lua"):format(rule.name))
  at = setmetatable({ keys = at.keys or at.length, head = at.head or 0,
    causal = at.causal or at.limits ~= nil }, { __index = at })
  function at.limit_of(i) return limit_of(at, i) end
  local sees, matrix = define(resolve(rule, options), at), {}
  for i = 0, at.length - 1 do
    local row, limit = {}, limit_of(at, i)
    local place = at.causal and limit - 1 or i
    for j = 0, at.keys - 1 do
      local seen = j < limit and sees(place, j, i)
      row[j + 1] = seen == true and 1 or seen or 0
    end
    matrix[i + 1] = row
  end
  if self_last[rule.name] and self_last[rule.name](at) then put_self_last(matrix, at) end
  return matrix
end

-- ---- what to try -----------------------------------------------------------------------

--- Lists for a length: of each block of queries some blocks, with gaps, empty ones among them.
local function some_lists(random, queries, keys)
  local list = {}
  for q = 1, queries do
    list[q] = {}
    for key = 0, keys - 1 do
      if q % 5 ~= 0 and random:below(3) == 0 then list[q][#list[q] + 1] = key end
    end
  end
  return list
end

--- The list as the rule takes it, an i32 tensor.
local function list_tensor(list, keys)
  local numbers, flat = { #list, keys, 0 }, {}
  for _, row in ipairs(list) do
    table.move(row, 1, #row, #flat + 1, flat)
    numbers[#numbers + 1] = #flat
  end
  table.move(flat, 1, #flat, #numbers + 1, numbers)
  return pf.tensor(numbers, { dtype = "i32" })
end

--- samples[name]: options to try; with `list`, a function (random, length, keys) that gives at.list
--- and the tensor of it; with `buckets`, one that gives at.buckets, lists of a round; `least`: what
--- length they are for at least; `fixed`: for one length; `own`: as many queries as keys in full.
local samples = {}
patterns.samples = samples

samples.sliding = {
  { options = {} }, { options = { window = 1 } }, { options = { window = 7 } },
  { options = { window = 128 } }, { options = { window = 100, global = 3 }, least = 3 },
  { options = { window = 600 } }, { options = { window = 5, dilation = 3 } },
  { options = { window = 40, dilation = 2, global = 2 }, least = 2 },
  { options = { window = 9, dilation = 200, global = 1 } },
  { options = { window = 9, ahead = 0 } },
  { options = { window = 20, ahead = 4, global = 130 }, least = 130, causal = false },
  { options = { window = 20, ahead = 30, dilation = 5 }, causal = false },
}
samples.strided = {
  { options = {} }, { options = { stride = 1 } }, { options = { stride = 16 } },
  { options = { stride = 16, part = "near" } }, { options = { stride = 16, part = "far" } },
  { options = { stride = 600 } }, { options = { stride = 3, part = "far" } },
}
samples.fixed = {
  { options = {} }, { options = { stride = 1, last = 1 } }, { options = { stride = 16, last = 4 } },
  { options = { stride = 16, last = 16 } }, { options = { stride = 23, last = 5, part = "far" } },
  { options = { stride = 23, last = 5, part = "near" } }, { options = { stride = 600, last = 2 } },
  { options = { stride = 200, last = 150 } },
}
samples.bigbird = {
  { options = { global = 0 } }, { options = { block = 16 } },
  { options = { block = 16, random = 5, seed = 9007199254740991, layer = 3 } },
  { options = { block = 5, window = 1, random = 2, global = 0, seed = 7 } },
  { options = { block = 150, random = 1 } }, { options = { block = 1, window = 5, random = 6 } },
  { options = { block = 8, random = 0, window = 7 } },
  { options = { block = 8, global = 2, random = 64 }, least = 9 },
}
for _, block in ipairs { 1, 5, 32, 64, 150 } do
  samples.listed = samples.listed or {}
  table.insert(samples.listed, { options = { block = block }, fixed = true,
    list = function(random, length, keys)
      local across = math.ceil(keys / block)
      local list = some_lists(random, math.ceil(length / block), across)
      return list, list_tensor(list, across)
    end })
end

--- Bucket numbers of some rounds, with masked keys among them.
local function some_buckets(rounds, buckets)
  return function(random, keys)
    local list = {}
    for t = 1, rounds do
      list[t] = {}
      for j = 1, keys do
        local number = random:below(buckets)
        list[t][j] = random:below(9) == 0 and ~number or number
      end
    end
    return list
  end
end
samples.lsh = {
  { options = {}, buckets = some_buckets(1, 2), own = true },
  { options = { window = 1 }, buckets = some_buckets(2, 4), own = true },
  { options = { window = 9 }, buckets = some_buckets(4, 7), own = true },
  { options = { window = 9, pairs = "count" }, buckets = some_buckets(3, 5), own = true },
  { options = { window = 3 }, buckets = some_buckets(2, 1000000), own = true },
}
samples.routing = {
  { options = {}, buckets = some_buckets(1, 3), own = true },
  { options = { window = 6 }, buckets = some_buckets(2, 5), own = true },
}

--- What a sample gives for one question: at (a copy) and the pattern's words, rows by rule's name.
function patterns.question(rule, sample_of, random, at)
  local asked, list = setmetatable({}, { __index = at }), nil
  local keys = at.keys or at.length
  if sample_of.list then asked.list, list = sample_of.list(random, at.length, keys) end
  if sample_of.buckets then asked.buckets = sample_of.buckets(random, keys) end
  return asked, patterns.words(rule.name, sample_of.options, list)
end

--- The tensor of a pattern, as ops take it.
function patterns.words(name, options, list)
  return require "performer.core".pattern(name, options, list)
end

return patterns
