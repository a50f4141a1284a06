-- kind_options_spec.lua - the options of a kind's own: exact's `scale` in every place that takes
-- an attention: calls, layers, streams, states and their files, checkpoints, the command line.
local pf = require "performer"
local commands = require "spec.support.commands"
local support = require "spec.support"

local nn = pf.nn
local B, H, L, D, SCALE = 2, 2, 7, 4, 0.2

local function rows() return pf.randn(B, H, L, D), pf.randn(B, H, L, D), pf.randn(B, H, L, D) end

--- What `scale` comes to: exact attention of queries that are larger or smaller.
local function scaled(q, k, v, scale, options)
  return pf.attention.exact(q * (scale * D ^ 0.5), k, v, options)
end

local function layer(attention)
  return nn.attention { dim = H * D, heads = H, causal = true, attention = attention }
end

describe("a kind's own options", function()
  it("are documented, and each kind refuses those of others", function()
    for _, kind in ipairs(pf.kinds()) do
      for _, option in ipairs(kind.options) do
        assert.is_true(#option.doc > 3 and option.kind ~= "tree", kind.name)
      end
      assert.raises(kind.name .. " attention: unknown option 'windaw'", function()
        layer { name = kind.name, windaw = 3 }
      end)
      assert.raises("unknown option 'windaw'", function()
        pf.attention.state { attention = { name = kind.name, windaw = 3 }, head_dim = D }
      end)
    end
    assert.raises("favor attention: unknown option 'scale'",
      function() layer { name = "favor", scale = 1 } end)
    assert.raises("a table with a name", function() layer { scale = 1 } end)
    assert.raises("'scale' must be a", function() layer { name = "exact", scale = "wide" } end)
  end)

  it("are told by what is meant, or by whose they are", function()
    for text, attention in pairs {
      ["unknown option 'hash_buckets'; it is 'buckets'"] = { name = "lsh", hash_buckets = 4 },
      ["unknown option 'n_hashes'; it is 'rounds'"] = { name = "lsh", n_hashes = 4 },
      ["unknown option 'window_size'; it is 'window'"] = { name = "sliding", window_size = 4 },
      ["unknown option 'rounds'; it is of lsh"] = { name = "sliding", rounds = 4 },
      ["unknown option 'windoww' %(did you mean 'window'%?%)"] = { name = "sliding", windoww = 4 },
    } do
      assert.raises(text, function() layer(attention) end)
      assert.raises(text, function() pf.attention.state { attention = attention, head_dim = D } end)
      assert.raises(text, function()
        nn.performer { vocab = 4, dim = 8, heads = 2, layers = 1, attention = { attention } }
      end)
      local name, own = attention.name, {}
      for key, value in pairs(attention) do own[key] = key ~= "name" and value or nil end
      local q, k, v = rows()
      assert.raises(text, function() pf.attention[name](q, k, v, own) end)
      if name == "sliding" then
        assert.raises((text:gsub("of lsh", "of pf.attention.lsh")), function()
          pf.pattern[name](own)
        end)
      end
    end
  end)

  it("are finite, by whatever call", function()
    local x = pf.randn(1, 1, 2, D)
    for _, scale in ipairs { 0 / 0, math.huge } do
      assert.raises("scale is .*, not a finite number", function()
        pf.attention.listed(x, x, x, { pattern = pf.pattern.sliding {}, scale = scale })
      end)
      local one = pf.randn(1, 1, 2, 1)
      for name, score in pairs { scale = "dot", slope = "gat" } do
        assert.raises(name .. ".*, not finite numbers", function()
          pf.attention.graph(one, one, x, { from = { 1 }, to = { 1 }, [name] = scale,
                                            score = score })
        end)
      end
    end
  end)

  it("are no kernel, where a kind reads none", function()
    local base = { vocab = 5, dim = 8, heads = 2, layers = 2 }
    local function performer(more) return function()
      local o = {}
      for _, t in ipairs { base, more } do for key, value in pairs(t) do o[key] = value end end
      return nn.performer(o)
    end end
    local none = "attention takes no kernel, so kernel has no effect.*attention = \"favor\""
    for _, kind in ipairs(pf.kinds()) do
      if not kind.takes_kernel then
        for _, kernel in ipairs { "relu", { features = 8 }, pf.kernel.relu {} } do
          assert.raises(kind.name .. " " .. none, function()
            nn.attention { dim = 8, heads = 2, attention = kind.name, kernel = kernel }
          end)
          assert.raises(kind.name .. " " .. none, function()
            nn.block { dim = 8, heads = 2, attention = { name = kind.name }, kernel = kernel }
          end)
          assert.raises(kind.name .. " " .. none, performer {
            attention = kind.name, kernel = kernel })
        end
        assert.raises(none, performer { attention = { kind.name, "exact" }, kernel = "relu" })
        assert.raises(none, performer { attention = { kind.name }, kernel = { "relu", "elu" } })
        assert.raises(none, performer { head_groups = { { heads = 1, kernel = "relu" },
          { heads = 1, attention = kind.name, kernel = "elu" } } })
        assert.raises(none, performer { kernel = "relu", head_groups = {
          { heads = 1, attention = "exact" }, { heads = 1, attention = kind.name } } })
      end
    end
    assert.raises(none, performer { local_heads = 2, kernel = "relu" })
    for _, read in ipairs { { attention = { "exact", "favor" }, kernel = "relu" },
      { local_heads = 1, kernel = "relu" }, { attention = "auto", kernel = { features = 8 } },
      { kernel = "relu", head_groups = { { heads = 1 }, { heads = 1, attention = "exact" } } },
    } do
      local model = performer(read)()
      nn.performer(model:options()) -- what a model says of itself it is made of
    end
  end)

  it("are refused where no head is left for them", function()
    for _, attention in ipairs { "exact", { name = "sliding", window = 3 }, { "exact" } } do
      assert.raises("'local_heads' is 2, all the heads", function()
        nn.performer { vocab = 5, dim = 8, heads = 2, layers = 1, local_heads = 2,
                       attention = attention }
      end)
    end
    nn.performer { vocab = 5, dim = 8, heads = 2, layers = 1, local_heads = 2 }
  end)

  it("are as the rotations, centroids or rooms of a call say", function()
    local q, k, v = rows()
    local function raises(text, name, o)
      assert.raises(text, function() pf.attention[name](q, k, v, o) end)
    end
    local rotations, centroids = pf.randn(H, 3, D, 4), pf.randn(H, 5, D)
    raises("rounds is 2, but the rotations are of 3", "lsh", { rotations = rotations, rounds = 2 })
    raises("buckets is 16, which rotations of 8 columns tell, but these have 4", "lsh",
      { rotations = rotations, buckets = 16 })
    local y = pf.attention.lsh(q, k, v, { rotations = rotations })
    assert.bits_equal(y, pf.attention.lsh(q, k, v, { rotations = rotations, rounds = 3,
                                                     buckets = 8 }))
    local numbers = pf.lsh_buckets(k, rotations)
    assert.bits_equal(y, pf.attention.lsh(q, k, v, { rooms = numbers, rounds = 3 }))
    raises("rounds is 4, but the rooms are of 3", "lsh", { rooms = numbers, rounds = 4 })
    raises("buckets = 8 has no effect", "lsh", { rooms = numbers, buckets = 8 })
    raises("clusters is 4, but the centroids are 5", "routing",
      { centroids = centroids, clusters = 4 })
    local clusters = pf.nearest_cluster(k, centroids)
    raises("clusters = 5 has no effect", "routing", { rooms = clusters, clusters = 5 })
    raises("rooms have 1 rows of numbers, and tied = false takes 2", "routing",
      { rooms = clusters, tied = false })
    raises("'rate' is for layers, which train", "routing", { centroids = centroids, rate = 0.1 })
  end)

  it("come with a state of their kind", function()
    local x = pf.randn(1, 5, H * D)
    local state = layer { name = "sliding", window = 2 }:state { batch = 1 }
    for _, name in ipairs { "strided", "exact", "identity" } do
      assert.raises("the state is not one of this model", function()
        layer(name):prefill(x, state)
      end)
    end
  end)

  it("are a part of a state, whose tensors alone would do for others", function()
    local x = pf.randn(1, 5, H * D)
    local function foreign(a, b, text)
      for _, pair in ipairs { { a, b }, { b, a } } do
        local from, to = layer(pair[1]), layer(pair[2])
        local state = from:state { batch = 1 }
        from:prefill(x, state)
        for _, s in ipairs { state, state:fork(), state:fork():reorder { 1 } } do
          assert.raises(text, function() to:prefill(x, s) end)
          assert.raises(text, function() to:step(pf.randn(1, H * D), s) end)
        end
        assert.equal(5, state:position())
        from:prefill(x, state)
      end
    end
    for _, kind in ipairs(pf.kinds()) do
      for _, option in ipairs(kind.streams and kind.options or {}) do
        local n = tonumber(option.default)
        local value = option.kind == "string" and option.choices:match "[^|]+$" or n and n + 2 or 1
        if option.kind == "bool" then value = option.default ~= "true" end
        if option.name == "rate" then value = 0.5 end
        local own = { name = kind.name, [option.name] = value }
        if option.name == "queries" then own.global = 1 end
        if option.name ~= "ahead" then -- which no causal layer has
          foreign(option.name == "queries" and { name = kind.name, global = 1 } or kind.name, own,
            ("%s attention has %s ="):format(kind.name, option.name))
        end
      end
    end
    foreign("strided", "fixed", "it is of %l+ attention, the layer of %l+")
    local relu, elu = {}, {}
    for name, made in pairs { relu = relu, elu = elu } do
      made[1] = nn.attention { dim = H * D, heads = H, causal = true, kernel = name }
    end
    assert.raises("it is of another feature map", function()
      elu[1]:prefill(x, relu[1]:state { batch = 1 })
    end)
    local wide, narrow = layer { name = "sliding", window = 4 },
      layer { name = "sliding", window = 3 }
    local model = nn.chain { wide, narrow }
    local carry, other = nn.chain { wide, wide }:carry { batch = 1 }, model:carry { batch = 1 }
    assert.raises("sliding attention has window = 4, the layer's 3", function()
      model(x, { carry = carry })
    end)
    model(x, { carry = other })
  end)

  it("look ahead in full attention alone", function()
    local ahead = { name = "sliding", window = 3, ahead = 2 }
    assert.raises("ahead = 2 looks at later keys", function() layer(ahead) end)
    assert.raises("ahead = 2 looks at later keys", function()
      pf.attention.state { attention = ahead, head_dim = D }
    end)
    layer { name = "sliding", window = 3, ahead = 0 }
    nn.attention { dim = H * D, heads = H, attention = ahead }
    layer { name = "sliding", window = 3, global = 1000 } -- for rows of that length
  end)

  it("are read by a call", function()
    local q, k, v = rows()
    assert.near_tensor(scaled(q, k, v, SCALE, { causal = true }),
      pf.attention.exact(q, k, v, { causal = true, scale = SCALE }), 1e-6)
    assert.raises("scale", function() pf.attention.favor(q, k, v, { scale = 1 }) end)
    assert.raises("without options of its own", function()
      pf.attention.log_partition(q, k, { attention = { name = "exact", scale = SCALE } })
    end)
  end)

  it("are kept by a layer, in training, streaming and files", function()
    local own, plain = layer { name = "exact", scale = SCALE }, layer "exact"
    local tensors, x = own:tensors(), pf.randn(B, L, H * D)
    for name, tensor in pairs(plain:tensors()) do tensor:copy_(tensors[name]) end
    assert.equal(SCALE, own:options().attention_options.scale)
    local y = own(x)
    assert.is_true((y - plain(x)):abs():max():item() > 1e-4)
    -- The plain layer with the queries' part of qkv as large as the scale says.
    local qkv = plain:tensors()["qkv.weight"]
    qkv:copy_(pf.concat({ qkv:slice(1, 1, H * D) * (SCALE * D ^ 0.5),
                          qkv:slice(1, H * D + 1, 3 * H * D) }, 1))
    assert.near_tensor(plain(x), y, 1e-5)
    local state = own:state { batch = B }
    local first = own:prefill(x:slice(2, 1, 3), state)
    assert.near_tensor(y:slice(2, 1, 3), first, 1e-5)
    for t = 4, L do
      assert.near_tensor(y:slice(2, t, t):reshape(B, H * D),
        own:step(x:slice(2, t, t):reshape(B, H * D), state), 1e-5)
    end
    local again = nn.build(own:tree())
    for name, tensor in pairs(again:tensors()) do tensor:copy_(tensors[name]) end
    assert.equal(y:tobytes(), again(x):tobytes())
  end)

  it("are kept by a state alone and by its file", function()
    local q, k, v = rows()
    local want = scaled(q, k, v, SCALE, { causal = true })
    local options = { attention = { name = "exact", scale = SCALE } }
    local state = pf.attention.state { attention = options.attention, batch = B, heads = H,
                                       head_dim = D }
    local function part(t, from, to) return t:slice(3, from, to) end
    state:prefill(part(q, 1, 4), part(k, 1, 4), part(v, 1, 4))
    local path = support.folder() .. "/state"
    finally(function() support.remove(path:match "^(.*)/") end)
    assert(state:save(path))
    for _, loaded in ipairs { assert(pf.attention.load_state(path)),
                              assert(pf.attention.load_state(path, options)), state:fork() } do
      local out = loaded:prefill(part(q, 5, L), part(k, 5, L), part(v, 5, L))
      assert.near_tensor(part(want, 5, L), out, 1e-5)
    end
    assert(pf.attention.load_state(path, { attention = "exact", scale = SCALE }))
    assert.raises("unknown option 'window'; it is of sliding", function()
      pf.attention.load_state(path, { attention = "exact", window = 3 })
    end)
    local none, message = pf.attention.load_state(path, { attention = "exact" })
    assert.is_nil(none)
    assert.matches("differ in exact attention's option 'scale'", message)
    local other = pf.attention.state { attention = "exact", batch = B, heads = H, head_dim = D }
    assert.raises("option 'scale'", function() state:merge(other) end)
  end)

  it("can be given on the command line, and are the run's own", function()
    commands.start()
    finally(commands.stop)
    local more = ("--data %s --steps 2 --attention "):format(commands.path "t.txt")
    local run = commands.train("exact", more .. "exact --attention-scale 0.3")
    local saved = assert(pf.checkpoint.load(run))
    assert.same({ scale = 0.3 }, saved.model:options().attention_options)
    local code, _, err = commands.performer(("train --out %s %s %s"):format(commands.path "other",
      commands.SMALL, more .. "favor --attention-scale 0.3"))
    assert.equal(2, code)
    commands.assert_sentence(err, "%-%-attention%-scale is for %-%-attention exact")
  end)
end)
