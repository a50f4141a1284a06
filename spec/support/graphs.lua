-- graphs.lua - graphs and attention over their edges by definition, in double precision, and the
-- cases of the two ops. `require "spec.support.graphs"`.
local array = require "spec.support.array"
local attention = require "spec.support.attention"
local fill = require "spec.support.fill"

local N, AWAY, POS, I, ROWS = fill.N, fill.AWAY, fill.POS, fill.I, fill.ROWS
local graphs = { oracle = {}, cases = {} }
local oracle, cases = graphs.oracle, graphs.cases

-- ---- definitions -----------------------------------------------------------------------

--- Edges {{from, to}, ...}, counted from 0, as the op's array (E, 3).
function graphs.sorted(list)
  local rows = {}
  for e, ends in ipairs(list) do rows[e] = { ends[2], ends[1], e - 1 } end
  table.sort(rows, function(a, b)
    for c = 1, 3 do if a[c] ~= b[c] then return a[c] < b[c] end end
    return false
  end)
  return array.new({ #rows, 3 }, function(i) return rows[(i - 1) // 3 + 1][(i - 1) % 3 + 1] end,
    "i32")
end

function oracle.edges(x, o)
  local list, there, first = {}, {}, o.first or 0
  for e = 1, #x.from do
    list[e] = { x.from[e] - first, x.to[e] - first }
    there[list[e][1] .. " " .. list[e][2]] = true
  end
  local function add(from, to)
    if not there[from .. " " .. to] then list[#list + 1] = { from, to } end
  end
  for e = 1, o.both and #x.from or 0 do add(list[e][2], list[e][1]) end
  for i = 0, o.loops and o.nodes - 1 or -1 do add(i, i) end
  return { graphs.sorted(list) }
end

local function leaky(z, slope) return z > 0 and z or slope * z end

--- The score of query row `a` and key row `b` (places before the first channel) of head h.
local function score_of(x, o, a, b, h)
  local d, sum, slope = x.q.shape[4], 0, o.slope or 0.2
  for c = 1, d do
    local q, k = x.q[a + c], x.k[b + c]
    if o.score == "gat" then
      sum = sum + leaky(q + k, slope)
    elseif o.score == "gatv2" then
      sum = sum + x.weight[h * d + c] * leaky(q + k, slope)
    else
      sum = sum + q * k * (o.scale and o.scale > 0 and o.scale or d ^ -0.5)
    end
  end
  return sum
end

--- {{key, logarithm of its weight}, ...} of query i (from 1) of head h of item b (both from 0).
local function weighed(x, o, b, h, i)
  local H, Lq, Lk, d = x.q.shape[2], x.q.shape[3], x.k.shape[3], x.q.shape[4]
  local Hk, list = x.k.shape[2], {}
  local kv = h // (H // Hk)
  local see = attention.visible({ q = x.q, k = x.k, mask = x.mask, documents = x.documents,
    cu_seqlens = x.cu_seqlens, limits = x.limits, prefix = x.prefix, causal = o.causal }, b)
  for e = 0, x.edges.shape[1] - 1 do
    local to, from, number = x.edges[3 * e + 1] + 1, x.edges[3 * e + 2] + 1, x.edges[3 * e + 3]
    if to == i and see(i, from) then
      local s = score_of(x, o, ((b * H + h) * Lq + i - 1) * d,
        ((b * Hk + kv) * Lk + from - 1) * d, h)
      local own = x.bias and x.bias.shape[2]
      if x.bias then s = s + x.bias[own and number * H + h + 1 or number + 1] end
      if x.decay then s = s + x.decay[kv + 1] * (from - (i + Lk - Lq)) end
      list[#list + 1] = { from, s }
    end
  end
  return list, kv
end

function oracle.edge_attention(x, o)
  local B, H, Lq = x.q.shape[1], x.q.shape[2], x.q.shape[3]
  local Hk, Lk, dv = x.v.shape[2], x.v.shape[3], x.v.shape[4]
  local out = array.new { B, H, Lq, dv }
  for n = 0, B * H * Lq - 1 do
    local b, h, i = n // (H * Lq), n // Lq % H, n % Lq + 1
    local list, kv = weighed(x, o, b, h, i)
    local top, sum = -math.huge, 0
    for _, w in ipairs(list) do top = math.max(top, w[2]) end
    for _, w in ipairs(list) do sum = sum + math.exp(w[2] - top) end
    for _, w in ipairs(list) do
      local weight, at = math.exp(w[2] - top) / sum, ((b * Hk + kv) * Lk + w[1] - 1) * dv
      for c = 1, dv do out[n * dv + c] = out[n * dv + c] + weight * x.v[at + c] end
    end
  end
  return { out }
end

-- ---- cases -----------------------------------------------------------------------------

local function LIST(...) return ROWS({ select("#", ...) }, ...) end

cases.edges = {
  good = {
    { { from = LIST(2, 0, 1, 0), to = LIST(0, 1, 0, 2) }, { nodes = 4 } },
    { { from = LIST(3, 1, 1), to = LIST(1, 3, 2) }, { nodes = 3, first = 1 } },
    { { from = LIST(2, 0, 1, 0), to = LIST(0, 1, 0, 2) }, { nodes = 4, both = true } },
    { { from = LIST(2, 1, 0), to = LIST(0, 1, 1) }, { nodes = 4, both = true, loops = true } },
    { { from = LIST(2, 0, 2, 2), to = LIST(1, 1, 1, 0) }, { nodes = 3, multi = true } },
    { { from = LIST(4, 0, 4), to = LIST(1, 1, 0) }, { nodes = 2, keys = 5 } },
    { { from = LIST(), to = LIST() }, { nodes = 3 } },
    { { from = LIST(), to = LIST() }, { nodes = 3, loops = true } },
    { { from = LIST(), to = LIST() }, { nodes = 0 } },
  },
  bad = {
    { { from = I(3, 2), to = I(3, 3) }, { nodes = 3 }, "from is [2]", "to is [3]", "the two ends" },
    { { from = LIST(0, 3), to = LIST(1, 1) }, { nodes = 3 }, "edge 2 comes from 3", "0 to 2" },
    { { from = LIST(1, 2), to = LIST(1, 0) }, { nodes = 3, first = 1 }, "edge 2 goes to 0",
      "1 to 3" },
    { { from = LIST(0, 2, 0), to = LIST(1, 1, 1) }, { nodes = 3 }, "edge 3 is edge 1 once more",
      "from 0 to 1", "multi" },
    { { from = LIST(0), to = LIST(1) }, { nodes = 3, keys = 4, loops = true }, "from 4", "to 3" },
    { { from = LIST(0), to = LIST(1) }, { nodes = 3, first = 2 }, "first is 2" },
    { { from = LIST(0), to = LIST(1) }, { nodes = -1 }, "nodes is -1" },
    { { from = N(2), to = I(2, 2) }, { nodes = 2 }, "from", "f32", "i32" },
  },
}

-- Query 3 has no edge, and query 4 has one twice.
local few = graphs.sorted { { 0, 1 }, { 4, 0 }, { 1, 1 }, { 2, 0 }, { 0, 0 }, { 3, 2 }, { 2, 4 },
                            { 0, 4 }, { 4, 4 }, { 2, 4 }, { 4, 2 } }
-- From 7 keys to 3 queries.
local across = graphs.sorted { { 6, 0 }, { 0, 2 }, { 3, 2 }, { 5, 0 }, { 1, 0 } }
local none = array.new({ 0, 3 }, nil, "i32")

--- Every fifth pair or so of a graph of L nodes, and all of node 0's.
local function many(L)
  local list = {}
  for i = 0, L - 1 do
    for j = 0, L - 1 do
      if i == 0 or (i * 7 + j * 3 + i * j) % 5 == 0 then list[#list + 1] = { j, i } end
    end
  end
  return graphs.sorted(list)
end

local holes = ROWS({ 2, 5 }, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0)
local packed = ROWS({ 2, 5 }, 0, 0, 1, 1, 1, 3, 3, 3, 3, 4)

local function case(Lq, Lk, more, attrs, extra)
  local d, Hk = attrs and attrs.score == "gat" and 1 or 4, more and more.Hk or 2
  local x = { q = AWAY(2, 2, Lq, d), k = AWAY(2, Hk, Lk, d), v = N(2, Hk, Lk, 3), edges = few }
  if attrs and attrs.score then -- no sum near the kink at 0
    x.q, x.k = fill.HALVES(-1.75)(2, 2, Lq, d), fill.HALVES(-2)(2, Hk, Lk, d)
  end
  if attrs and attrs.score == "gatv2" then x.weight = N(2, 4) end
  for name, value in pairs(more or {}) do if name ~= "Hk" then x[name] = value end end
  local all = { x, attrs or {}, relative = 1e-6, absolute = 1e-6, fixed = { decay = true } }
  for name, value in pairs(extra or {}) do all[name] = value end
  return all
end

cases.edge_attention = {
  good = {
    case(5, 5), case(5, 5, { bias = N(11) }), case(5, 5, { bias = N(11, 2) }, { scale = 0.3 }),
    case(5, 5, { Hk = 1 }), case(3, 7, { edges = across }),
    case(5, 5, { mask = holes, bias = N(11, 2) }),
    case(5, 5, { documents = packed, mask = holes }), case(5, 5, {}, { causal = true }),
    case(3, 7, { edges = across }, { causal = true }),
    case(5, 5, { limits = ROWS({ 2, 5 }, 4, 0, 5, 1, 5, 2, 2, 3, 5, 1) }),
    case(5, 5, { prefix = ROWS({ 2 }, 3, 0) }, { causal = true }),
    case(5, 5, { decay = POS(2) }, { causal = true }),
    case(5, 5, {}, { score = "gat" }),
    case(5, 5, { bias = N(11, 2), Hk = 1 }, { score = "gat", slope = 0.5 }),
    case(5, 5, { mask = holes }, { score = "gat", causal = true }),
    case(5, 5, {}, { score = "gatv2" }),
    case(5, 5, { bias = N(11), Hk = 1 }, { score = "gatv2", slope = 0 }),
    case(5, 5, { documents = packed }, { score = "gatv2" }),
    case(5, 5, { edges = none }, {}, { grad = false }), case(0, 0, { edges = none }),
    case(90, 90, { edges = many(90) }, {}, { grad = "slopes" }),
    case(90, 90, { edges = many(90) }, { score = "gatv2" }, { grad = "slopes" }),
  },
  bad = {
    case(5, 5, { k = N(2, 2, 5, 3) }), case(5, 5, { bias = N(10) }),
    case(5, 5, { bias = N(11, 3) }), case(5, 5, { edges = I(3, 4, 2) }),
    case(5, 5, { edges = false }), case(3, 5),
    case(5, 5, { edges = ROWS({ 2, 3 }, 1, 0, 0, 0, 0, 1) }),
    case(5, 5, { edges = ROWS({ 1, 3 }, 1, 0, 4) }),
    case(5, 5, { weight = N(2, 4) }), case(5, 5, { weight = N(2, 3) }, { score = "gatv2" }),
    case(5, 5, { weight = false }, { score = "gatv2" }),
    case(5, 5, { q = N(2, 2, 5, 4), k = N(2, 2, 5, 4) }, { score = "gat" }),
    case(5, 5, {}, { score = "gatv2", scale = 2 }), case(5, 5, {}, { dropout = 1 }),
    case(5, 3, {}, { causal = true }), case(5, 5, { decay = POS(2) }),
  },
}

local told = {
  { "k is [2, 2, 5, 3]", "dimension" }, { "bias is [10]", "[11, 2]" }, { "bias is [11, 3]" },
  { "edges is [4, 2]", "(edges, 3)" }, { "edges are missing" },
  { "edge 8 goes from 1 to 5", "3 that see" }, { "row 2 of edges", "out of order" },
  { "row 1 of edges", "out of order" }, { "the score dot takes no weight" },
  { "weight is [2, 3]", "[2, 4]" }, { "the score gatv2 needs its vector" }, { "gat", "width 1" },
  { "scale is for the score dot, not for gatv2" }, { "dropout is 1" }, { "causal" }, { "decay" },
}
for n, bad in ipairs(cases.edge_attention.bad) do
  for name, value in pairs(bad[1]) do if value == false then bad[1][name] = nil end end
  table.move(told[n], 1, #told[n], 3, bad)
end

return graphs
