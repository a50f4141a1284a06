-- refusals_spec.lua - what the engine refuses: misuse of many kinds, each a row of the words that
-- its message must have and the call. Shapes, options that don't go together, numbers out of range;
-- damaged files have specs of their own.
local pf = require "performer"
require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

local function ids(...)
  local sizes = { ... }
  sizes[#sizes + 1] = i32
  return pf.zeros(table.unpack(sizes))
end

local q, k, v = pf.randn(1, 2, 4, 4), pf.randn(1, 2, 4, 4), pf.randn(1, 2, 4, 4)

local function with(first, more)
  local all = {}
  for _, list in ipairs { first, more } do
    for key, value in pairs(list) do all[key] = value end
  end
  return all
end

local function favor(options)
  return pf.attention.favor(q, k, v, with({ kernel = pf.kernel.relu {} }, options))
end

local function state(options)
  return pf.attention.state(with({ kernel = pf.kernel.relu { head_dim = 4 }, heads = 2 }, options))
end

local function performer(options)
  return nn.performer(with({ vocab = 8, dim = 8, layers = 1, heads = 2 }, options))
end

local CASES = {
  attention = {
    { "mask.*%(batch, length%)", function() favor { mask = pf.ones(1, 3) } end },
    { "prefix must be 0 to the length %(4%), item 1 has 9", function()
      favor { causal = true, prefix = pf.tensor({ 9 }, i32) }
    end },
    { "cu_seqlens must not decrease, but number 3 is 1 after 3", function()
      favor { cu_seqlens = pf.tensor({ 0, 3, 1, 4 }, i32) }
    end },
    { "entry_s, entry_z and entry_shift go together", function()
      pf.favor(q, k, v, { map = "relu", entry_s = pf.zeros(1, 2, 4, 4) })
    end },
    { "documents must be %(batch, length%)", function()
      pf.attention.favor(q, k, v, { kernel = pf.kernel.softmax { stabiliser = "reference",
        features = 8 }, documents = ids(1, 3) })
    end },
    { "items: dim is 4611686018427387904 and value_dim 4; from 1, from 0, to 1048576", function()
      pf.attention.items { kernel = pf.kernel.relu {}, dim = 1 << 62, value_dim = 4 }
    end },
    { "items: dim is 4 and value_dim %d+; from 1, from 0, to 1048576", function()
      pf.attention.items { kernel = pf.kernel.relu {}, dim = 4, value_dim = 1 << 62 }
    end },
    { "attention.compare: dim must be a number, got table", function()
      pf.attention.compare("relu", { dim = {} })
    end },
    { "attention.compare: draws must be a number, got function", function()
      pf.attention.compare("relu", { draws = function() end })
    end },
    { "nn.repeated: a count of at most 65536", function() nn.repeated(1 << 62, type) end },
    { "'local_heads' must be a whole number from 0 to 4096, got a map", function()
      performer { kernel = { name = "relu" }, local_heads = { a = 1 } }
    end },
    { "a step takes one position; use prefill", function()
      state({}):step(q, k, v)
    end },
    { "the state has 2 heads", function()
      local one, other = state {}, pf.randn(1, 3, 4, 4)
      one:prefill(q, k, v)
      one:prefill(other, other, other)
    end },
    { "one has 2 heads of 4 and values of 4, the other 2, 4 and 3", function()
      state({}):merge(state { value_dim = 3 })
    end },
    { "one state has 1 sequences, the other 2", function()
      state({}):merge(state { batch = 2 })
    end },
  },

  ["attention over edges"] = {
    { "edges must be %(edges, 3%)", function()
      pf.edge_attention(q, k, v, { edges = ids(4, 2) })
    end },
    { "the score gatv2 needs its vector", function()
      pf.edge_attention(q, k, v, { edges = ids(1, 3), score = "gatv2" })
    end },
    { "weight must be %(heads, width%) = %[2, 4%]", function()
      pf.edge_attention(q, k, v, { edges = ids(1, 3), score = "gatv2", weight = pf.ones(2, 3) })
    end },
    { "dropout is 1, not in 0 <= p < 1", function()
      pf.edge_attention(q, k, v, { edges = ids(1, 3), dropout = 1 })
    end },
    { "nodes is %-1 and keys", function()
      pf.edges(ids(2), ids(2), { nodes = -1 })
    end },
  },

  ["rooms and lists"] = {
    { "mask must be %(batch, length%) = %[1, 4%]", function()
      pf.lsh_buckets(k, pf.randn(2, 1, 4, 2), { mask = pf.ones(1, 3) })
    end },
    { "rotations must have columns", function()
      pf.lsh_buckets(k, pf.zeros(2, 1, 4, 0))
    end },
    { "rounds is 3, but the rotations are of 1", function()
      pf.attention.lsh(k, k, v, { rounds = 3, rotations = pf.randn(2, 1, 4, 2) })
    end },
    { "clusters is 5, but the centroids are 3", function()
      pf.attention.routing(k, k, v, { clusters = 5, centroids = pf.randn(2, 3, 4) })
    end },
    { "skipped and kept are numbers of keys, not negative", function()
      pf.listed_attention(q, k, v, { pattern = pf.pattern.sliding { window = 2 }:tensor(4, 4),
                                     skipped = -1 })
    end },
    { "skipped 9223372036854775807, kept 0: a stream has at most", function()
      pf.listed_attention(q, k, v, { pattern = pf.pattern.sliding { window = 2 }:tensor(4, 4),
                                     skipped = math.maxinteger })
    end },
    { "buckets must be %(batch, heads, rounds, keys%)", function()
      pf.listed_attention(q, k, v, { pattern = pf.pattern.sliding { window = 2 }:tensor(4, 4),
                                     buckets = ids(1, 2, 4) })
    end },
  },

  items = {
    { "add: keys is %[2, 3%], must be %(count, 4%)", function()
      pf.attention.items { dim = 4, kernel = pf.kernel.relu {} }:add(pf.ones(2, 3))
    end },
    { "add: this set was opened without values", function()
      pf.attention.items { dim = 4, kernel = pf.kernel.relu {} }:add(pf.ones(2, 4), pf.ones(2, 3))
    end },
    { "add: this set has values; give them", function()
      pf.attention.items { dim = 4, value_dim = 3, kernel = pf.kernel.relu {} }:add(pf.ones(2, 4))
    end },
    { "add: values is %[3, 3%], must be %[2, 3%]", function()
      pf.attention.items { dim = 4, value_dim = 3, kernel = pf.kernel.relu {} }
        :add(pf.ones(2, 4), pf.ones(3, 3))
    end },
    { "expectation: this set was opened without values", function()
      pf.attention.items { dim = 4, kernel = pf.kernel.relu {} }:expectation(pf.ones(1, 4))
    end },
    { "mask is %[1, 3%], must be %[1, 4%]", function()
      pf.attention.weights(q, k, { kernel = pf.kernel.relu {}, rows = { 1 }, mask = pf.ones(1, 3) })
    end },
    { "mask must be %(batch, length%) = %[1, 4%]", function()
      pf.log_partition(q, k, { mask = pf.ones(1, 3) })
    end },
  },

  kernels = {
    { "relu takes no tilt; softmax_plus does", function() pf.kernel.relu { tilt = 0.1 } end },
    { "stabiliser = \"reference\" is of softmax and softmax_reg; relu has none", function()
      pf.kernel.relu { stabiliser = "reference" }
    end },
    { "settings depend on head_dim; give it", function() pf.kernel.softmax {}:settings() end },
    { "tilts must be %(heads%) = %[2%]", function()
      pf.favor(q, k, v, { map = "softmax_plus", projection = pf.randn(8, 4), tilts = pf.zeros(3) })
    end },
    { "tilts must be below 1/4, one head has 0.3", function()
      pf.favor(q, k, v, { map = "softmax_plus", projection = pf.randn(8, 4),
                          tilts = pf.tensor { 0, 0.3 } })
    end },
    { "a table has 1 to %d+ rows", function()
      assert(pf.attention.use_crossover { rows = {} })
    end },
    { "row 1 must have numbers head_dim, features and length", function()
      assert(pf.attention.use_crossover { rows = { { head_dim = 0 } } })
    end },
  },

  layers = {
    { "rotary and relative positions both say where a key stands", function()
      nn.attention { dim = 8, heads = 2, attention = "sliding", causal = true, relative = true,
                     attention_options = { window = 2 }, rotary = true }
    end },
    { "head_groups and lists of each layer's attention or kernel don't go together", function()
      performer { attentions = { "exact" }, head_groups = { { heads = 2 } } }
    end },
    { "must be %(B, L, D%) with D = 8", function()
      nn.attention { dim = 8, heads = 2 }(pf.ones(1, 3, 6))
    end },
    { "positions: x is %[3%], must be %(B, L, D%)", function()
      nn.positions { kind = "sinusoidal", dim = 3 }(pf.ones(3))
    end },
    { "types: x is %[1, 3, 6%], must be %(B, L, D%) with D = 8", function()
      nn.types { types = 2, dim = 8 }(pf.ones(1, 3, 6))
    end },
    { "the width W must be 1 to %d+", function()
      pf.short_conv(pf.ones(1, 3, 2), pf.ones(0, 2))
    end },
    { "wants a gradient, which only parameters get here", function()
      local model = nn.chain { nn.linear { from = 2, to = 3 } }
      model:backward_sliced({ input = pf.ones(1, 4, 2):requires_grad(), target = ids(1, 4) },
                            { slices = 2 })
    end },
  },
}

CASES["numbers that f32 can't hold"] = {
  { "linspace: from 0 to 1e%+300: an f32 tensor cannot hold 1e%+300",
    function() pf.linspace(0, 1e300, 3) end },
  { "linspace: .* hold %-1e%+39", function() pf.linspace(-1e39, 0, 2) end },
  { "linspace: from 0 to nan in 3", function() pf.linspace(0, -(0 / 0), 3) end },
  { "linspace: from nan", function() pf.linspace(0 / 0, 0, 3) end },
  { "full: an f32 tensor cannot hold 1e%+39", function() pf.full({ 2 }, 1e39) end },
  { "fill: an f32 tensor %[2%] cannot hold 1e%+39", function() pf.ones(2):fill_(1e39) end },
  { "tensor: an f32 tensor cannot hold %-1e%+39", function() pf.tensor { { 1 }, { -1e39 } } end },
  { "tensor: an f32 tensor cannot hold 1e%+39", function() pf.tensor(1e39) end },
  { "assignment: an f32 tensor cannot hold 1e%+39", function() pf.ones(2)[1] = 1e39 end },
  { "assignment: an f32 tensor cannot hold 1e%+39", function() pf.ones(2, 2)[{ 1, 2 }] = 1e39 end },
}

describe("the engine refuses", function()
  for what, rows in pf.sorted(CASES) do
    it("misuse of " .. what, function()
      for _, row in ipairs(rows) do
        local fine, message = pcall(row[2])
        assert.is_false(fine, row[1])
        assert.matches(row[1], message)
      end
    end)
  end

  it("no infinity that is meant, nor one that arithmetic gives", function()
    local x, huge = pf.full({ 2 }, -math.huge), math.huge
    x[1] = huge
    assert.same({ huge, -huge }, x:totable())
    assert.same({ huge, 0x1.fffffep+127 }, pf.tensor { huge, 0x1.fffffep+127 }:totable())
    assert.same({ huge, -huge }, (pf.tensor { 1, -1 } * 1e300):totable())
    assert.same({ 1, 2 }, pf.tensor { 1, 2 }:clamp(-1e300, 1e300):totable())
    assert.equal(1, pf.tensor { 5 }:lt(1e300):item())
  end)

  it("and shows NaN as one, whatever its sign", function()
    local x = pf.tensor { 0 / 0, -(0 / 0) }
    for _, value in ipairs { x[1]:item(), x[2]:item(), x:totable()[1], x:totable()[2] } do
      assert.equal("nan", tostring(value))
    end
  end)
end)
