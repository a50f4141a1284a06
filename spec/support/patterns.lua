-- patterns.lua - which keys each query sees, by every rule of patterns: the definitions, written
-- from the papers and from nothing else, pair by pair, and options to try them with. A rule of the
-- engine's table without a definition here fails patterns_spec.
--
-- Positions count from 0. `at` says what is asked: length, keys, causal, limits (list), head,
-- buckets (lists of a round), mask (list of 1 and 0). A query stands at `place`, its last key (full
-- attention: its own number), -1 for none, in all that counts distances.
local pf = require "performer"
local core = require "performer.core"
local array = require "spec.support.array"
local philox = require "spec.support.philox"

local patterns = {}

local PATTERN_DRAW = 8 -- the purpose of random blocks

-- ---- definitions -----------------------------------------------------------------------

--- rules[name](o, at): a function (place, j, i): whether, or how often, the rule has a pair.
local rules = {}
patterns.rules = rules

--- Longformer, 3.1: a window, dilated; the first `global` tokens see and are seen by all.
function rules.sliding(o, at)
  local back = at.causal and o.window - 1 or o.window
  local ahead = at.causal and 0 or o.ahead < 0 and o.window or o.ahead
  return function(p, j)
    if o.queries == (p < o.global and "local" or "global") then return false end
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
  local side = o.window_blocks // 2
  local function global(b)
    return b < o.global_blocks or not at.causal and b >= blocks - o.global_blocks and b < blocks
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
    if own >= 1 and own <= at.limit_of(i - 1) and not (at.mask and at.mask[own] == 0) then
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
      local seen = j < limit and not (at.mask and at.mask[j + 1] == 0) and sees(place, j, i)
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
  { options = { window = 20, global = 2, queries = "local" }, least = 2 },
  { options = { window = 20, global = 2, queries = "global" }, least = 2 },
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
  { options = { global_blocks = 0 } }, { options = { block = 16 } },
  { options = { block = 16, random = 5, seed = 9007199254740991, layer = 3 } },
  { options = { block = 5, window_blocks = 1, random = 2, global_blocks = 0, seed = 7 } },
  { options = { block = 150, random = 1 } },
  { options = { block = 1, window_blocks = 5, random = 6 } },
  { options = { block = 8, random = 0, window_blocks = 7 } },
  { options = { block = 8, global_blocks = 2, random = 64 }, least = 9 },
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
function patterns.words(name, options, list) return core.pattern(name, options, list) end

-- ---- the ops -----------------------------------------------------------------------------

--- Rule and options of a pattern's words, an array: mark, rule's number, how many options, then
--- each as a double in two words, then a list.
local function read(words)
  local rule, options, bytes = pf.patterns()[words[2] + 1], {}, {}
  for i = 1, #words do bytes[i] = string.pack("<i4", words[i]) end
  bytes = table.concat(bytes)
  for n, option in ipairs(rule.options) do
    local value = string.unpack("<d", bytes, 13 + 8 * (n - 1))
    if option.choices then
      local place = 0
      for choice in option.choices:gmatch "[^|]+" do
        if place == value then options[option.name] = choice end
        place = place + 1
      end
    else
      options[option.name] = math.tointeger(value) or value
    end
  end
  local list, first = { table.unpack(words, 4 + 2 * words[3]) }, {}
  for q = 1, rule.lists and list[1] or 0 do
    first[q] = { table.unpack(list, 4 + list[1] + list[2 + q], 3 + list[1] + list[3 + q]) }
  end
  return rule, options, first
end

local function lists_of(numbers)
  local lists, width = {}, numbers.shape[2]
  for t = 1, numbers.shape[1] do
    lists[t] = { table.unpack(numbers, (t - 1) * width + 1, t * width) }
  end
  return lists
end

patterns.oracle = {}

function patterns.oracle.pattern_matrix(x, o)
  local rule, options, list = read(x.pattern)
  local keys = o.keys or o.length
  local rows = patterns.matrix(rule, options, { length = o.length, keys = keys,
    causal = o.causal, head = o.head, list = list, limits = x.limits,
    buckets = x.buckets and lists_of(x.buckets) })
  return { array.new({ o.length, keys }, function(n)
    return rows[(n - 1) // keys + 1][(n - 1) % keys + 1]
  end, "i32") }
end

--- Counts alone: tiles are the engine's own.
function patterns.oracle.pattern_count(x, o)
  local matrix = patterns.oracle.pattern_matrix(x, o)[1]
  local keys = matrix.shape[2]
  return { array.new({ o.length }, function(i)
    local sum = 0
    for j = 1, keys do sum = sum + matrix[(i - 1) * keys + j] end
    return sum
  end, "i32") }
end

-- ---- cases -------------------------------------------------------------------------------

local function words_of(name, options) return array.of(patterns.words(name, options or {})) end

local function cases_of(finish)
  local window = words_of("sliding", { window = 3 })
  local limits = array.new({ 5 }, function(i) return ({ 3, 0, 5, 1, 4 })[i] end, "i32")
  local buckets = array.new({ 2, 9 }, function(i) return i * i % 7 % 3 end, "i32")
  local listed = array.of(patterns.words("listed", {}, list_tensor({ { 0 }, { 0, 1 } }, 2)))
  listed[#listed], listed[#listed - 1] = listed[#listed - 1], listed[#listed]
  local broken = array.copy(window)
  broken[2] = 99
  local function with_width(width) -- in the words of a double
    local words = array.copy(window)
    words[4], words[5] = string.unpack("<i4i4", string.pack("<d", width))
    return words
  end
  return {
    shapeless = true, finish = finish,
    good = {
      { { pattern = window }, { length = 9, causal = true } },
      { { pattern = window }, { length = 9 } },
      { { pattern = window, limits = limits }, { length = 5 } },
      { { pattern = window }, { length = 4, keys = 7, causal = true } },
      { { pattern = window }, { length = 0 } }, { { pattern = window }, { length = 1 } },
      { { pattern = words_of("sliding", { window = 2, dilation = 3, global = 1 }) },
        { length = 20 } },
      { { pattern = words_of("strided", { stride = 4 }) }, { length = 21, causal = true } },
      { { pattern = words_of("fixed", { stride = 4, last = 1, part = "far" }) }, { length = 21 } },
      { { pattern = words_of("bigbird", { block = 2 }) },
        { length = 30, head = 2, causal = true } },
      { { pattern = words_of "lsh", buckets = buckets }, { length = 9, causal = true } },
    },
    bad = {
      { { pattern = broken }, { length = 4 }, "pf.pattern" },
      { { pattern = with_width(0 / 0) }, { length = 4 }, "window", "nan" },
      { { pattern = with_width(2.5) }, { length = 4 }, "window", "2.5" },
      { { pattern = with_width(-1e300) }, { length = 4 }, "window", "-1e+300" },
      { { pattern = array.new({ 2 }, nil, "i32") }, { length = 4 }, "pf.pattern", "[2]" },
      { { pattern = array.new({ 2 }) }, { length = 4 }, "i32" },
      { { pattern = window }, { length = -1 }, "length = -1" },
      { { pattern = window, limits = limits }, { length = 4 }, "limits", "[4]" },
      { { pattern = window, limits = limits }, { length = 5, keys = 4 }, "query 3", "5" },
      { { pattern = words_of "lsh" }, { length = 4 }, "buckets" },
      { { pattern = words_of("sliding", { global = 6 }) }, { length = 5 }, "global = 6", "5" },
      { { pattern = words_of("sliding", { ahead = 2 }) }, { length = 5, causal = true },
        "ahead = 2" },
      { { pattern = listed }, { length = 2 }, "query 2", "key 1", "out of order" },
    },
  }
end

patterns.cases = {
  pattern_matrix = cases_of(),
  pattern_count = cases_of(function(got) return { got[1] } end),
}

return patterns
