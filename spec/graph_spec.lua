-- graph_spec.lua - graphs and attention over their edges: what lists come to, what is refused, bits
-- that depend on nothing but the graph, batches, dropout, the layers' formulas, and what a model
-- does with edges. The op's formula and gradients are held by ops_spec (support/graphs.lua).
local pf = require "performer"
local array = require "spec.support.array"
local child = require "spec.support.child"
local graphs = require "spec.support.graphs"
local support = require "spec.support"

local nn = pf.nn
local i32 = { dtype = "i32" }

--- A graph of L nodes, as lists from 1: every node sees a few, some none, one all.
local function lists(L, seed)
  local random, from, to = array.random(seed or 1), {}, {}
  for i = 1, L do
    for j = 1, L do
      local edge = i == 2 or random:below(L) < 4 and i % 7 ~= 3
      if edge then from[#from + 1], to[#to + 1] = j, i end
    end
  end
  return from, to
end

local function shuffled(from, to, bias)
  local random, a, b, c = array.random(5), { table.unpack(from) }, { table.unpack(to) },
    { table.unpack(bias or {}) }
  for i = #a, 2, -1 do
    local j = random:below(i) + 1
    a[i], a[j], b[i], b[j], c[i], c[j] = a[j], a[i], b[j], b[i], c[j], c[i]
  end
  return a, b, c
end

local function rows(B, H, L, d, seed)
  return array.tensor(array.random(seed):normals { B, H, L, d })
end

--- {output, gradients of q, k, v, bias ...} of attention as bytes.
local function bytes_of(inputs, options)
  local leaves, all, parts = { inputs.q, inputs.k, inputs.v, inputs.bias, inputs.weight }, {}, {}
  for i = 1, 5 do if leaves[i] then all[#all + 1] = leaves[i]:clear_grad():requires_grad() end end
  local o = { bias = inputs.bias, weight = inputs.weight }
  for key, value in pairs(options) do o[key] = value end
  do
    local tape <close> = pf.tape()
    local y = pf.attention.graph(inputs.q, inputs.k, inputs.v, o)
    parts[1] = y:tobytes()
    tape:backward((y * y):sum())
  end
  for i, leaf in ipairs(all) do parts[i + 1] = leaf:grad():tobytes() end
  return parts
end

local function inputs_of(score, B, H, Hk, L, seed)
  local d = score == "gat" and 1 or 6
  return { q = rows(B, H, L, d, seed), k = rows(B, Hk, L, d, seed + 1),
           v = rows(B, Hk, L, 5, seed + 2),
           weight = score == "gatv2" and array.tensor(array.random(9):normals { H, 6 }) or nil }
end

local SCORES = { "dot", "gat", "gatv2" }

describe("a graph", function()
  it("is made of lists, tensors, a file, and graphs", function()
    local o = { nodes = 5, loops = true, both = true }
    local function with(more)
      local all = {}
      for _, t in ipairs { o, more } do for key, value in pairs(t) do all[key] = value end end
      return pf.graph(all)
    end
    local g = with { from = { 1, 2, 4, 4 }, to = { 2, 1, 3, 4 } }
    assert.equal("graph of 5 nodes, 9 edges, 1 to 2 to a node", tostring(g))
    local from, to = g:ends()
    assert.same({ { 1, 2, 4, 4, 3, 1, 2, 3, 5 }, { 2, 1, 3, 4, 4, 1, 2, 3, 5 } }, { from, to })
    local function same(other)
      assert.equal(g.edges:tobytes(), other.edges:tobytes())
      assert.equal(g.nodes, other.nodes)
    end
    same(with { from = pf.tensor({ 1, 2, 4, 4 }, i32), to = pf.tensor({ 2, 1, 3, 4 }, i32) })
    same(with { from = { 0, 1, 3, 3 }, to = { 1, 0, 2, 3 }, first = 0 })
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    support.write(folder .. "/edges.tsv", "from\tto\n1\t2\n2,1\n\n# 9 9\n 4 3 \r\n4 4\n")
    same(with { path = folder .. "/edges.tsv" })
    local two = pf.graph { g, pf.graph { from = { 2 }, to = { 1 } } }
    assert.same({ 7, 10 }, { two.nodes, two.count })
    from, to = two:ends()
    assert.same({ 3, 7, 6 }, { from[8], from[10], to[10] })
    assert.equal("graph of 0 nodes, 0 edges, 0 to 0 to a node", tostring(pf.graph { from = {},
      to = {} }))
    assert.equal("graph of 9 nodes to 2, 1 edges, 0 to 1 to a node",
      tostring(pf.graph { from = { 9 }, to = { 2 }, keys = 9 }))
    assert.equal(2, pf.graph { from = { 1, 1 }, to = { 2, 2 }, multi = true }.count)
  end)

  it("says in one sentence what is wrong with a list, and with which edge", function()
    for text, o in pairs {
      ["edge 2 comes from 5, but nodes are 1 to 4"] = { from = { 1, 5 }, to = { 1, 1 }, nodes = 4 },
      ["edge 3 goes to 0, but nodes are 1 to 2"] = { from = { 1, 2, 1 }, to = { 1, 1, 0 } },
      ["edge 2 comes from 4, but nodes are 0 to 3"] = { from = { 0, 4 }, to = { 1, 1 }, nodes = 4,
                                                         first = 0 },
      ["edge 3 is edge 1 once more, from 1 to 2"] = { from = { 1, 2, 1 }, to = { 2, 1, 2 } },
      ["from is %[2%], to is %[1%]"] = { from = { 1, 2 }, to = { 1 } },
      ["loops and both are for one set of nodes"] = { from = { 1 }, to = { 1 }, keys = 3,
                                                      loops = true },
      ["to of edge 2 must be a whole number, got 1.5"] = { from = { 1, 1 }, to = { 2, 1.5 } },
      ["unknown option 'node' %(did you mean 'nodes'%?%)"] = { from = {}, to = {}, node = 3 },
      ["from and to are needed"] = { from = { 1 } },
      ["from must be a list of nodes or an i32 tensor"] = { from = 1, to = { 1 } },
    } do
      assert.raises(text, function() pf.graph(o) end)
    end
    assert.raises("entry 2 of the list must be a graph", function()
      pf.graph { pf.graph { from = {}, to = {} }, 3 }
    end)
    local none, message, code = pf.graph { path = "/no/such/file" }
    assert.same({ false, "PF_ENOTFOUND" }, { none or false, code })
    assert.matches("/no/such/file", message)
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    support.write(folder .. "/e", "1 2\n3\n")
    none, message, code = pf.graph { path = folder .. "/e" }
    assert.same({ false, "PF_EFORMAT" }, { none or false, code })
    assert.matches("/e: line 2 must be two whole numbers", message)
    for _, first in ipairs { "1 2 3", "-1 2", "1", "1 x", "1.5 2", "99999999999999999999 2",
                             "1 2147483648" } do
      support.write(folder .. "/e", first .. "\n1 2\n")
      none, message, code = pf.graph { path = folder .. "/e" }
      assert.same({ false, "PF_EFORMAT" }, { none or false, code }, first)
      assert.matches("/e: line 1 must be two whole numbers", message)
    end
    none, message, code = pf.graph { path = folder }
    assert.same({ false, "PF_EIO" }, { none or false, code })
    assert.matches(folder .. ": ", message, 1, true)
  end)
end)

describe("attention over edges", function()
  it("has the same bits in whatever order edges are listed, biases with them", function()
    local L = 60
    local from, to = lists(L)
    local a, b, order = shuffled(from, to, (function()
      local n = {}
      for i = 1, #from do n[i] = i end
      return n
    end)())
    for _, score in ipairs(SCORES) do
      local x, y = inputs_of(score, 2, 4, 2, L, 3), inputs_of(score, 2, 4, 2, L, 3)
      x.bias = array.tensor(array.random(8):normals { #from, 4 })
      local ids = {}
      for i, n in ipairs(order) do ids[i] = n - 1 end
      y.bias = pf.embedding(x.bias, pf.tensor(ids, i32)):detach()
      local o = { score = score, dropout = 0.4, draw = 7 }
      o.from, o.to = from, to
      local want = bytes_of(x, o)
      o.from, o.to = a, b
      local got = bytes_of(y, o)
      for i = 1, 4 do assert.is_true(want[i] == got[i], score .. " " .. i) end
      -- The biases' gradients in the other order.
      assert.bits_equal(pf.embedding(x.bias:grad(), pf.tensor(ids, i32)), y.bias:grad())
    end
  end)

  it("has the same bits on any number of threads", function()
    local code = [[
      local L, from, to = 700, {}, {}
      for i = 1, L do
        for s = 1, i % 40 do from[#from + 1], to[#to + 1] = (i * 3 + s * s * 7) % L + 1, i end
      end
      local g = pf.graph { from = from, to = to, nodes = L, multi = true }
      for _, score in ipairs { "dot", "gat", "gatv2" } do
        local random, d = array.random(4), score == "gat" and 1 or 6
        local function leaf(...) return array.tensor(random:normals { ... }):requires_grad() end
        local q, k, v = leaf(2, 2, L, d), leaf(2, 1, L, d), leaf(2, 1, L, 5)
        local bias, weight = leaf(g.count), score == "gatv2" and leaf(2, 6) or nil
        local tape <close> = pf.tape()
        local y = pf.attention.graph(q, k, v, { graph = g, score = score, bias = bias,
          weight = weight, dropout = 0.3, draw = 5 })
        tape:backward((y * y):sum())
        for _, t in ipairs { y, q:grad(), k:grad(), v:grad(), bias:grad(),
                             weight and weight:grad() } do
          print(array.hex(t))
        end
      end]]
    local one = child.run(code, "{threads = 1}")
    assert.is_true(#one > 100000)
    for n = 2, 3 do
      assert.is_true(one == child.run(code, ("{threads = %d}"):format(n)), n .. " threads")
    end
  end)

  it("has the bits of an item alone", function()
    local L = 300
    local from, to = lists(L, 2)
    local g = pf.graph { from = from, to = to }
    for _, score in ipairs(SCORES) do
      local x = inputs_of(score, 2, 2, 1, L, 4)
      local whole = pf.attention.graph(x.q, x.k, x.v, { graph = g, score = score,
        weight = x.weight })
      for b = 1, 2 do
        local function item(t) return t:slice(1, b, b) end
        assert.bits_equal(item(whole), pf.attention.graph(item(x.q), item(x.k), item(x.v),
          { graph = g, score = score, weight = x.weight }))
      end
    end
  end)

  it("of graphs in a row has the bits of each alone", function()
    local sizes, list = { 40, 7, 90 }, {}
    for n, L in ipairs(sizes) do
      local from, to = lists(L, n)
      list[n] = pf.graph { from = from, to = to, nodes = L }
    end
    local all = pf.graph(list)
    for _, score in ipairs(SCORES) do
      local x, at = inputs_of(score, 1, 2, 2, all.nodes, 6), 0
      local whole = bytes_of(x, { graph = all, score = score, weight = x.weight })
      local out, parts = pf.attention.graph(x.q, x.k, x.v, { graph = all, score = score,
        weight = x.weight }), {}
      assert.equal(whole[1], out:tobytes())
      for n, L in ipairs(sizes) do
        local function part(t) return t and t:slice(3, at + 1, at + L):detach() end
        local y = { q = part(x.q), k = part(x.k), v = part(x.v), weight = x.weight }
        parts[n] = bytes_of(y, { graph = list[n], score = score })
        assert.equal(part(out):tobytes(), parts[n][1])
        assert.equal(part(x.q:grad()):tobytes(), parts[n][2])
        x.q:clear_grad()
        at = at + L
        bytes_of(x, { graph = all, score = score })
      end
    end
  end)

  it("sees all where all are edges: as exact attention", function()
    local L, from, to = 50, {}, {}
    for i = 1, L do for j = 1, L do from[#from + 1], to[#to + 1] = j, i end end
    local x = inputs_of("dot", 2, 2, 2, L, 3)
    local mask = pf.tensor(array.random(4):whole({ 2 * L }, 0, 1), i32):reshape(2, L)
    for _, causal in ipairs { false, true } do
      local o = { causal = causal, mask = mask }
      local want = pf.attention.exact(x.q, x.k, x.v, o)
      o.from, o.to = from, to
      assert.near_tensor(want, pf.attention.graph(x.q, x.k, x.v, o), 1e-5)
    end
  end)

  it("gives 0 without edges, and takes no number from whom it does not see", function()
    local q, k, v = rows(1, 2, 6, 4, 1), rows(1, 2, 6, 4, 2), rows(1, 2, 6, 4, 3)
    local o = { from = { 1, 2, 6 }, to = { 2, 2, 3 } }
    local y = pf.attention.graph(q, k, v, o)
    for _, i in ipairs { 1, 4, 5, 6 } do
      assert.equal(0, y:slice(3, i, i):abs():max():item())
    end
    -- Key 6 is NaN: only node 3 sees it, and gradients only of who has to do with it.
    local nan = pf.concat({ k:slice(3, 1, 5), k:slice(3, 6, 6) * (0 / 0) }, 3)
    local bad = pf.concat({ v:slice(3, 1, 5), v:slice(3, 6, 6) * (0 / 0) }, 3)
    q:requires_grad()
    nan:requires_grad()
    bad:requires_grad()
    do
      local tape <close> = pf.tape()
      local z = pf.attention.graph(q, nan, bad, o)
      assert.bits_equal(y:slice(3, 1, 2), z:slice(3, 1, 2))
      assert.bits_equal(y:slice(3, 4, 6), z:slice(3, 4, 6))
      assert.is_true(z:slice(3, 3, 3):sum():item() ~= z:slice(3, 3, 3):sum():item())
      tape:backward((z * z):sum())
    end
    for _, leaf in ipairs { q, nan, bad } do
      local first = leaf:grad():slice(3, 1, 2):abs():sum():item()
      assert.is_true(first == first and first < math.huge)
      assert.equal(0, leaf:grad():slice(3, 4, 5):abs():max():item())
    end
  end)

  it("takes nothing back from a query that gets no gradient, NaN or not", function()
    local k, v, g = rows(1, 1, 4, 1, 2), rows(1, 1, 4, 3, 3), rows(1, 1, 2, 3, 4)
    local weight, up = pf.ones(1, 1), pf.concat({ g, pf.zeros(1, 1, 2, 3) }, 3)
    local function gradients(score, q)
      local o = { from = { 1, 1, 2, 1, 2, 3 }, to = { 1, 2, 2, 3, 4, 4 }, causal = true,
                  score = score, weight = score == "gatv2" and weight or nil }
      for _, leaf in ipairs { q, k, v, weight } do leaf:clear_grad():requires_grad() end
      local tape <close> = pf.tape()
      tape:backward(pf.attention.graph(q, k, v, o), up)
      return { q:grad(), k:grad(), v:grad(), score == "gatv2" and weight:grad() or nil }
    end
    for _, score in ipairs { "dot", "gat", "gatv2" } do
      local want = gradients(score, rows(1, 1, 4, 1, 1))
      for _, bad in ipairs { 0 / 0, math.huge, -3e38 } do
        local later = pf.full({ 1, 1, 2, 1 }, bad)
        local got = gradients(score, pf.concat({ rows(1, 1, 4, 1, 1):slice(3, 1, 2), later }, 3))
        for n, t in ipairs(want) do assert.bits_equal(t, got[n]) end
      end
    end
  end)

  it("drops weights of the given share, the same on the way back", function()
    local L, from, to = 200, {}, {}
    for i = 1, L do for j = 1, 50 do from[#from + 1], to[#to + 1] = (i + j) % L + 1, i end end
    local g = pf.graph { from = from, to = to }
    local q, v = pf.zeros(1, 2, L, 1), pf.ones(1, 2, L, 1)
    local function kept(draw)
      return pf.attention.graph(q, q, v, { graph = g, dropout = 0.4, draw = draw }) * (0.6 * 50)
    end
    local share = kept(1):mean():item() / 50
    assert.near(0.6, share, 0.01)
    assert.bits_equal(kept(1), kept(1))
    assert.is_false(kept(1):tobytes() == kept(2):tobytes())
    local x = inputs_of("gatv2", 1, 2, 1, L, 5)
    x.bias = array.tensor(array.random(3):normals { g.count, 2 })
    pf.check.gradient(function(a, b, c, bias)
      return pf.attention.graph(a, b, c, { graph = g, dropout = 0.4, draw = 3, bias = bias })
    end, { x.q, x.k, x.v, x.bias })
  end)

  it("refuses what does not go together", function()
    local x = pf.randn(1, 2, 3, 4)
    local g = pf.graph { from = { 1 }, to = { 4 } }
    assert.raises("the graph has 4 nodes, but there are 3 queries and 3 keys",
      function() pf.attention.graph(x, x, x, { graph = g }) end)
    assert.raises("give a graph, or lists from and to", function()
      pf.attention.graph(x, x, x, { graph = g, from = { 1 }, to = { 1 } })
    end)
    assert.raises("graph must be one that pf.graph made", function()
      pf.attention.graph(x, x, x, { graph = 3 })
    end)
    local four, y = pf.graph { from = { 1, 2 }, to = { 3, 3 }, nodes = 4 }, pf.randn(1, 1, 5, 2)
    assert.raises("the graph has 4 nodes, but there are 5 queries and 5 keys", function()
      pf.attention.graph(y, y, y, { graph = four })
    end)
    assert.raises("edges: a graph of 4 nodes, but x has 5 positions", function()
      nn.graph_attention { dim = 4, heads = 2 }(pf.randn(1, 5, 4), { edges = four })
    end)
    assert.raises("edges: a graph of 4 nodes, but x has 5 positions", function()
      nn.attention { dim = 4, heads = 2, attention = "graph" } {
        input = pf.randn(1, 5, 4), edges = four }
    end)
    assert.raises("loops is of lists from and to", function()
      pf.attention.graph(y:slice(3, 1, 4), y:slice(3, 1, 4), y:slice(3, 1, 4),
        { graph = four, loops = true })
    end)
    assert.raises("graphs in a row take no option 'loops'", function()
      pf.graph { four, four, loops = true }
    end)
    assert.raises("slope is of LeakyReLU, in the scores gat and gatv2", function()
      pf.attention.graph(y, y, y, { from = { 1 }, to = { 1 }, slope = 0.2 })
    end)
    assert.raises("slope is of the scores gat and gatv2", function()
      pf.edge_attention(y, y, y, { edges = four.edges, slope = 0.3 })
    end)
    assert.raises("'share' does nothing here", function()
      nn.graph_attention { dim = 4, heads = 2, share = true }
    end)
    assert.raises("edge 2 goes to 9, but nodes are 1 to 3", function()
      pf.attention.graph(x, x, x, { from = { 1, 1 }, to = { 1, 9 } })
    end)
    assert.raises("unknown option 'windw'", function()
      pf.attention.graph(x, x, x, { graph = g, windw = 3 })
    end)
    assert.raises("unknown option 'edges'", function()
      pf.attention.exact(x, x, x, { edges = g.edges })
    end)
  end)
end)

-- ---- layers ------------------------------------------------------------------------------

--- The layer's formula by the judge of the op: x (1, L, D) an array.
local function layer_formula(layer, x, g, o)
  local t, B, L = {}, x.shape[1], x.shape[2]
  for name, tensor in pairs(layer:tensors()) do t[name] = array.of(tensor) end
  local H, dh, D = o.heads, o.head_dim, x.shape[3]
  local function project(weight, bias)
    return array.new({ B, H, L, dh }, function(i)
      local c, l, h, b = (i - 1) % dh, (i - 1) // dh % L, (i - 1) // (dh * L) % H,
        (i - 1) // (dh * L * H)
      local sum = bias and bias[h * dh + c + 1] or 0
      for j = 1, D do
        sum = sum + x[(b * L + l) * D + j] * weight[(h * dh + c) * D + j]
      end
      return sum
    end)
  end
  local values = project(t["values.weight"])
  local inputs = { v = values, edges = array.of(g.edges) }
  if o.score == "gatv2" then
    inputs.k, inputs.weight = values, t.score
    inputs.q = o.share and values or project(t["query.weight"], t["query.bias"])
  else
    local function half(a)
      return array.new({ B, H, L, 1 }, function(i)
        local h, sum = (i - 1) // L % H, 0
        for c = 1, dh do sum = sum + a[h * dh + c] * values[(i - 1) * dh + c] end
        return sum
      end)
    end
    inputs.q, inputs.k = half(t.score_to), half(t.score_from)
  end
  local y = graphs.oracle.edge_attention(inputs, { score = o.score, slope = o.slope })[1]
  local width = o.join == "mean" and dh or H * dh
  return array.new({ B, L, width }, function(i)
    local c, l, b, sum = (i - 1) % width, (i - 1) // width % L, (i - 1) // (width * L), 0
    if o.join == "mean" then
      for h = 0, H - 1 do sum = sum + y[((b * H + h) * L + l) * dh + c + 1] / H end
    else
      sum = y[((b * H + c // dh) * L + l) * dh + c % dh + 1]
    end
    if t.bias then sum = sum + t.bias[c + 1] end
    if o.residual and t["skip.weight"] then
      for j = 1, D do sum = sum + x[(b * L + l) * D + j] * t["skip.weight"][c * D + j] end
    elseif o.residual then
      sum = sum + x[(b * L + l) * D + c + 1]
    end
    return sum
  end)
end

describe("nn.graph_attention", function()
  local L, D = 12, 6
  local from, to = lists(L)
  local g = pf.graph { from = from, to = to, loops = true }

  it("is GAT, and GATv2, by definition", function()
    local x = array.random(3):normals { 2, L, D }
    for _, o in ipairs {
      { heads = 2, head_dim = 4 }, { heads = 3, head_dim = 4, join = "mean" },
      { heads = 2, head_dim = 3, residual = true, slope = 0.5 },
      { heads = 2, head_dim = 4, residual = true, bias = false },
      { heads = 2, head_dim = 4, score = "gatv2" },
      { heads = 2, head_dim = 4, score = "gatv2", share = true, join = "mean" },
    } do
      pf.seed(4)
      o.dim, o.score = D, o.score or "gat"
      local layer = nn.graph_attention(o)
      for name, t in pf.sorted(layer:tensors()) do
        if name:find "bias" then t:copy_(pf.randn(t:shape())) end
      end
      local y = array.of(layer { input = array.tensor(x), edges = g })
      local problem = array.differs(y, layer_formula(layer, x, g, o), 1e-6, 2e-6)
      assert.is_nil(problem, problem)
    end
  end)

  it("takes W h where it is sparse, and drops what it is told to", function()
    pf.seed(4)
    local whole = nn.graph_attention { dim = D, heads = 2, head_dim = 4 }
    local part = nn.graph_attention { dim = 8, heads = 2, project = false }
    local t, x = whole:tensors(), pf.randn(1, L, D)
    for name, tensor in pairs(part:tensors()) do tensor:copy_(t[name]) end
    assert.bits_equal(whole { input = x, edges = g },
      part { input = pf.linear(x, t["values.weight"]), edges = g })
    assert.raises("x is as wide as all heads, 8, but dim is 6", function()
      nn.graph_attention { dim = D, heads = 2, head_dim = 4, project = false }
    end)
    assert.raises("dim 6 is not a multiple of heads 4; give head_dim", function()
      nn.graph_attention { dim = D, heads = 4 }
    end)
    for _, name in ipairs { "input_dropout", "value_dropout", "attention_dropout" } do
      local layer = nn.graph_attention { dim = D, heads = 2, [name] = 0.5 }
      local function run(pass)
        pass.edges = g
        return layer(x, pass)
      end
      local quiet, first, second = run {}, run { training = true, step = 1 },
        run { training = true, step = 2 }
      assert.bits_equal(first, run { training = true, step = 1 })
      assert.is_false(first:tobytes() == second:tobytes(), name)
      assert.is_false(first:tobytes() == quiet:tobytes(), name)
    end
  end)

  it("says what it lacks: edges, a stream, a prefix", function()
    local layer, x = nn.graph_attention { dim = D, heads = 2 }, pf.randn(1, L, D)
    assert.raises("the input 'edges' is missing", function() layer(x) end)
    assert.raises("graph_attention: it can't stream: its edges are of a whole sequence",
      function() layer:state() end)
    assert.raises("a graph of 12 nodes, but x has 11 positions", function()
      layer { input = x:slice(2, 1, 11), edges = g }
    end)
    local causal = nn.attention { dim = D, heads = 2, attention = "graph", causal = true }
    assert.raises("graph attention can't stream: its edges", function() causal:state() end)
    assert.raises("the input 'edges' is missing", function() causal(x) end)
    assert.raises("unknown option 'edges'", function()
      nn.attention { dim = D, heads = 2 } (x, { edges = g })
    end)
    assert.raises("cross_attention: graph attention is of one sequence", function()
      nn.cross_attention { dim = D, heads = 2, attention = "graph" }
    end)
    local model = nn.performer { vocab = 5, dim = 8, layers = 1, heads = 2, attention = "graph",
                                 causal = true }
    assert.raises("graph", function()
      local ids = pf.zeros(1, L, i32)
      model:backward_sliced({ input = ids, target = ids, edges = g }, { slices = 2 })
    end)
  end)

  it("is trained, recomputed, saved and loaded, with edges and their biases", function()
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local ids = pf.tensor(array.random(3):whole({ 2 * L }, 0, 4), i32):reshape(2, L)
    local function model_of(more)
      pf.seed(9)
      local o = { vocab = 5, dim = 8, layers = 2, heads = 2, attention = "graph", dropout = 0.1,
                  attention_dropout = 0.2 }
      for key, value in pairs(more or {}) do o[key] = value end
      return nn.performer(o)
    end
    local bias = array.tensor(array.random(2):normals { g.count, 2 }):requires_grad()
    local function gradients(model)
      bias:clear_grad()
      do
        local tape <close> = pf.tape()
        tape:backward(model:loss({ input = ids, target = ids, edges = g, edge_bias = bias },
          { training = true, step = 3 }))
      end
      local list = { bias:grad():tobytes() }
      for _, p in ipairs((model:parameters())) do list[#list + 1] = p:grad():tobytes() end
      return table.concat(list)
    end
    local model = model_of()
    assert.is_true(gradients(model) == gradients(model_of { recompute = true }))
    assert.is_true(bias:grad():abs():sum():item() > 0)
    assert(pf.checkpoint.save(folder, { model = model }))
    local batch = { input = ids, edges = g, edge_bias = bias }
    assert.bits_equal(model(batch), assert(pf.checkpoint.load(folder)).model(batch))
    pf.check.bits(model, batch, { causal = false })
    pf.check.saved(model, batch, { stream = false })
  end)

  -- The lookup task of Brody et al. (2022, section 4.1): k nodes know a key and a value, k others
  -- know a key and ask for its value; every asking node sees all that know one. GAT ranks these
  -- alike for all that ask, and so can't even learn it; GATv2 can.
  it("looks values up by GATv2's score, and can't by GAT's", function()
    local K, B, width = 6, 32, 32
    local asks, knows = {}, {}
    for e = 0, K * K - 1 do asks[e + 1], knows[e + 1] = K + 1 + e // K, 1 + e % K end
    local all = pf.graph { from = knows, to = asks }

    --- A batch of rows of keys, with values in a random order, hidden (K) from who asks.
    local function batch(random)
      local keys, values, target = {}, {}, {}
      for b = 1, B do
        keys[b], values[b], target[b] = {}, {}, {}
        local order = {}
        for i = 1, K do order[i] = i - 1 end
        for i = K, 2, -1 do
          local j = random:below(i) + 1
          order[i], order[j] = order[j], order[i]
        end
        for i = 1, K do
          keys[b][i], values[b][i], target[b][i] = i - 1, order[i], -1
          keys[b][K + i], values[b][K + i], target[b][K + i] = i - 1, K, order[i]
        end
      end
      return { input = pf.tensor(keys, i32), values = pf.tensor(values, i32),
               target = pf.tensor(target, i32), edges = all }
    end

    local function learnt(score)
      pf.seed(1)
      local random = array.random(1)
      local model = nn.module {
        name = "lookup", inputs = { "edges", "values" },
        key = nn.embedding { vocab = K, dim = width },
        value = nn.embedding { vocab = K + 1, dim = width },
        attend = nn.graph_attention { dim = width, heads = 1, score = score },
        out = nn.linear { from = width, to = K },
        forward = function(self, x, pass)
          return self.out(self.attend(self.key(x) + self.value(pass.values), pass):relu())
        end,
      }
      local optimizer = pf.optim.adamw(model, { lr = 5e-3 })
      for _ = 1, 120 do
        local tape <close> = pf.tape()
        tape:backward(model:loss(batch(random)))
        optimizer:step { clip = 1 }
      end
      local result = model:evaluate(batch(random))
      return result.right / result.tokens
    end
    assert.is_true(learnt "gatv2" > 0.99)
    assert.is_true(learnt "gat" < 0.5)
  end)
end)
