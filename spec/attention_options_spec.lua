-- attention_options_spec.lua - what the options of a model make of its attention: rotary positions,
-- dropout inside, a kind and a kernel for each layer; as architecture_spec.lua does the others.
local architecture = require "spec.support.architecture"
local pf = require "performer"
local nn = pf.nn

local LENGTH = architecture.LENGTH
local with, made, ids_of = architecture.with, architecture.made, architecture.ids_of
local assert_model, assert_trains = architecture.assert_model, architecture.assert_trains
local combined = architecture.combined

describe("rotary positions", function()
  it("turn pairs of channels as rotary_pairs says", function()
    for _, o in ipairs(combined { rotary_pairs = { "halves", "neighbours" }, kv_heads = { 0, 1 },
                                  rotary_base = { 10000, 50 } }) do
      assert_model(o)
    end
    local model = made { rotary_pairs = "neighbours" }
    assert.are.equal("neighbours", model:tree().options.rotary_pairs)
    assert.is_nil(made({ rotary_pairs = "halves" }):tree().options.rotary_pairs)
    assert.raises("halves, neighbours", function() made { rotary_pairs = "pairs" } end)
  end)
end)

describe("dropout inside attention", function()
  local L, p = 64, 0.25

  --- A layer whose queries and keys are 0, so that all weights are equal, and whose values and
  --- output are its input: from one-hot rows come the weights.
  local function shown(options)
    local layer = nn.attention(with({ dim = L, heads = 1, attention_dropout = p }, options))
    local eye = {}
    for i = 1, L do
      eye[i] = {}
      for j = 1, L do eye[i][j] = i == j and 1 or 0 end
    end
    eye = pf.tensor(eye)
    layer:tensors()["qkv.weight"]:copy_(pf.concat({ pf.zeros(2 * L, L), eye }, 1))
    layer:tensors()["out.weight"]:copy_(eye)
    return layer, pf.concat({ eye:reshape(1, L, L), eye:reshape(1, L, L) }, 1)
  end

  local function count(t)
    local n = 0
    for _, value in ipairs(t:reshape(-1):totable()) do n = n + (value > 0 and 1 or 0) end
    return n
  end

  it("takes weights of exact attention, and scales the others", function()
    local layer, x = shown { attention = "exact" }
    assert.near_tensor(pf.full({ 2, L, L }, 1 / L), layer(x))
    local y = layer(x, { training = true, step = 3 })
    assert.near_tensor(1 / L / (1 - p), y:max():item(), 1e-6)
    assert.is_true(math.abs(count(y) / y:numel() - (1 - p)) < 0.02)
    assert.is_false(y:slice(2, 1, 1):tobytes() == y:slice(2, 2, 2):tobytes())
    assert.bits_equal(y, layer(x, { training = true, step = 3 }))
    assert.is_false(y:tobytes() == layer(x, { training = true, step = 4 }):tobytes())
  end)

  it("takes keys of linear attention, for all queries", function()
    local layer, x = shown { attention = "favor", kernel = { features = 8, seed = 2 } }
    local y = layer(x, { training = true, step = 3 })
    assert.near_tensor(pf.full({ 2, L }, 1), y:sum(3), 1e-5)
    assert.near_tensor(y:slice(2, 1, 1), y:slice(2, 9, 9), 1e-5)
    local kept = { count(y[1][1]), count(y[2][1]) }
    for b = 1, 2 do
      assert.is_true(kept[b] > 0.5 * L and kept[b] < 0.95 * L)
      assert.near_tensor(1 / kept[b], y[b]:max():item(), 1e-5)
    end
    assert.is_false(y[1]:tobytes() == y[2]:tobytes())
  end)

  it("is as the mask says, forward and backward, whole heads of groups and documents", function()
    pf.seed(8)
    local q, k, v = pf.randn(2, 4, 150, 6), pf.randn(2, 2, 150, 6), pf.randn(2, 2, 150, 3)
    local eye = {}
    for i = 1, 150 do
      eye[i] = {}
      for j = 1, 150 do eye[i][j] = i == j and 1 or 0 end
    end
    local ones = pf.zeros(2, 2, 150, 150) + pf.tensor(eye)
    for _, causal in ipairs { true, false } do
      local o = { causal = causal, dropout = 0.4, draw = 7 }
      local weights = pf.exact_attention(q, k, ones, o)
      local all = pf.exact_attention(q, k, ones, { causal = causal })
      local ratio = (weights / (all + 1e-30)):reshape(-1):totable()
      local seen = count(all)
      for i = 1, #ratio, 7 do
        assert.is_true(ratio[i] == 0 or math.abs(ratio[i] - 1 / 0.6) < 1e-5)
      end
      local kept = count(weights)
      assert.is_true(math.abs(kept / seen - 0.6) < 0.01)
      local values = pf.concat({ v:slice(2, 1, 1), v:slice(2, 1, 1), v:slice(2, 2, 2),
                                 v:slice(2, 2, 2) }, 2)
      assert.near_tensor(weights:matmul(values), pf.exact_attention(q, k, v, o), 1e-5)
    end
    local small = { pf.randn(1, 2, 9, 4), pf.randn(1, 1, 9, 4), pf.randn(1, 1, 9, 3) }
    for _, causal in ipairs { true, false } do
      pf.check.gradient(function(a, b, c)
        return pf.exact_attention(a, b, c, { causal = causal, dropout = 0.4, draw = 7 })
      end, small)
    end
    assert.raises("0 <= p < 1", function() pf.exact_attention(q, k, v, { dropout = 1 }) end)
  end)

  it("trains, whole and run again", function()
    for _, attention in ipairs { "exact", "favor" } do
      local kernel = attention == "favor" and { features = 8, seed = 2 } or nil
      assert_trains { attention = attention, kernel = kernel, attention_dropout = 0.2,
                      dropout = 0.1 }
      assert_trains { attention = attention, kernel = kernel, attention_dropout = 0.2,
                      dropout = 0.1, reversible = true }
    end
  end)
end)

describe("dropout inside cross-attention", function()
  it("is of its weights, or of the memory's keys", function()
    for _, attention in ipairs { "exact", "favor" } do
      local kernel = attention == "favor" and { features = 8, seed = 2 } or nil
      pf.seed(4)
      local o = { dim = 8, heads = 2, attention = attention, kernel = kernel }
      local layer = nn.cross_attention(with(o, { attention_dropout = 0.3 }))
      pf.seed(4)
      local plain = nn.cross_attention(o)
      local x, memory = pf.randn(2, 5, 8), pf.randn(2, 40, 8)
      assert.bits_equal(plain(x, { memory = memory }), layer(x, { memory = memory }))
      local y = layer(x, { memory = memory, training = true, step = 3 })
      assert.is_false(y:tobytes() == plain(x, { memory = memory }):tobytes())
      assert.bits_equal(y, layer(x, { memory = memory, training = true, step = 3 }))
      assert.is_false(y:tobytes()
        == layer(x, { memory = memory, training = true, step = 4 }):tobytes())
      pf.check.gradient(function(a, b)
        return layer(a, { memory = b, training = true, step = 3 })
      end, { x, memory })
    end
  end)
end)

describe("attention and kernel of each layer", function()
  local relu, softmax = { name = "relu", seed = 3 }, { name = "softmax", features = 8, seed = 2 }

  --- The same model put together by hand of blocks.
  local function assert_blocks(options, each)
    local model = made(with({ layers = #each, attention = false }, options))
    local x, t = ids_of(2, LENGTH), model:tensors()
    local h = pf.embedding(t["embedding.weight"], x)
    for i, o in ipairs(each) do
      local block = nn.block(with({ dim = 8, heads = 2, causal = true, rotary = true,
                                    layer = i - 1 }, o))
      for name, tensor in pairs(block:tensors()) do
        tensor:copy_(assert(t[("blocks.%d.%s"):format(i, name)], name))
      end
      h = block(h)
    end
    h = pf.layernorm(h, t["norm.weight"])
    assert.near_tensor(pf.linear(h, t["embedding.weight"]), model(x), 1e-5)
    pf.check.streaming(model, x)
    pf.check.saved(model, x)
    return model
  end

  it("are lists, which go round", function()
    local model = assert_blocks({ attention = { "exact", "favor" }, kernel = softmax },
      { { attention = "exact" }, { kernel = softmax }, { attention = "exact" },
        { kernel = softmax } })
    assert.are.same({ "exact", "favor" }, model:options().attentions)
    assert.is_truthy(tostring(model):find('attentions = {"exact", "favor"}', 1, true))
    assert_blocks({ attention = nil, kernel = { relu, softmax } },
      { { kernel = relu }, { kernel = softmax } })
    assert_blocks({ attention = { { name = "exact", scale = 0.2 }, "favor", "identity" },
                    kernel = { softmax, relu, "elu" } },
      { { attention = { name = "exact", scale = 0.2 } }, { kernel = relu },
        { attention = "identity" } })
  end)

  it("have seeds, and kernels that are open", function()
    local model = made { attention = false, kernel = { "relu", { features = 8 } } }
    for _, kernel in ipairs(model:options().kernels) do assert.is_true(kernel.seed > 0) end
    local own = pf.kernel.custom { name = "architecture_spec",
      map = function(x) return x:elu() + 1 end }
    local given = pf.kernel.softmax { projection = pf.randn(8, 4) }
    for _, kernel in ipairs { own, given } do
      local mixed = made { attention = false, kernel = { kernel, softmax } }
      pf.check.saved(mixed, ids_of(2, LENGTH))
      assert.is_nil(mixed:options().kernels[1].handle)
    end
  end)

  it("that fit nothing are told", function()
    for message, o in pairs {
      ["'attentions' has 3 entries, and layers is 4"] =
        { attention = { "exact", "exact", "favor" } },
      ["'kernels' has 8 entries, and layers is 4"] = { kernel = { relu, relu, relu, relu, relu,
                                                                relu, relu, relu } },
      ["layer 2: block: 'attention' must be one of .*mean 'favor'"] =
        { attention = { "exact", "favour" } },
      ["layer 1: .*there is no 'relo'"] = { kernel = { "relo", "relu" } },
      ["entry 2 of attentions must be a kind"] = { attention = { "exact", { scale = 1 } } },
      ["auto chooses for all layers at once"] = { attention = { "auto" } },
      ["all layers are one block, so 'attentions' has 1 entry, not 2"] =
        { attention = { "exact", "favor" }, shared = true },
      ["layer 2: .*option.*window"] = { attention = { "exact", { name = "exact", window = 1 } } },
    } do
      assert.raises(message, function() made(with({ layers = 4, attention = false }, o)) end)
    end
    assert.raises("nn.block: attention is a list, an entry a layer, which is for nn.performer",
      function() nn.block { dim = 8, attention = { "exact" } } end)
  end)
end)

describe("groups of heads", function()
  local relu, softmax = { name = "relu", seed = 3 }, { name = "softmax", features = 8 }

  --- Rows of q, k and v of a qkv matrix that belong to heads first .. last, of width d.
  local function heads_of(qkv, first, last, d, H)
    local parts = {}
    for side = 0, 2 do
      parts[side + 1] = qkv:slice(1, (side * H + first - 1) * d + 1, (side * H + last) * d)
    end
    return pf.concat(parts, 1)
  end

  it("are one attention where they are alike", function()
    for _, o in ipairs(combined { causal = { true, false }, residual = { "pre", "post" } }) do
      o.heads, o.dim = 4, 16
      local whole = made(o)
      local grouped = made(with(o, { head_groups = { { heads = 1 }, { heads = 3 } } }))
      local from = whole:tensors()
      for name, t in pairs(grouped:tensors()) do
        local place, group, rest = name:match "^(blocks%.%d%.attention)(%d?)%.(.*)$"
        local first, last = group == "" and 1 or 2, group == "" and 1 or 4
        if not place then
          t:copy_(from[name])
        elseif rest == "qkv.weight" then
          t:copy_(heads_of(from[place .. ".qkv.weight"], first, last, 4, 4))
        else
          t:copy_(from[place .. "." .. rest]:slice(2, (first - 1) * 4 + 1, last * 4))
        end
      end
      local x = ids_of(2, LENGTH)
      assert.near_tensor(whole(x), grouped(x), 1e-5)
    end
  end)

  it("have kernels and kinds of their own, stream, and are saved", function()
    for _, groups in ipairs {
      { { heads = 1, kernel = relu }, { heads = 1, kernel = softmax } },
      { { heads = 1, attention = "exact" }, { heads = 1, kernel = "elu" } },
      { { heads = 1 }, { heads = 1, attention = { name = "exact", scale = 0.3 } } },
    } do
      local model = made { attention = false, kernel = softmax, head_groups = groups, bias = true }
      local x = ids_of(2, LENGTH)
      pf.check.bits(model, x)
      pf.check.streaming(model, x)
      pf.check.saved(model, x)
      local block = nn.block { dim = 8, heads = 2, causal = true, kernel = softmax, bias = true,
                               head_groups = groups }
      local norm, first, second = table.unpack(block:children())
      local h = pf.randn(2, LENGTH, 8)
      local tensors = block:tensors()
      local sum = h + (first(norm(h)) + second(norm(h)))
      local after = pf.layernorm(sum, tensors["norm2.weight"], tensors["norm2.bias"])
      assert.near_tensor(sum + block:children()[5](after), block(h), 1e-5)
    end
  end)

  it("train, and draw rows of their own", function()
    assert_trains { head_groups = { { heads = 1 }, { heads = 1, kernel = { features = 6 } } } }
    assert_trains { head_groups = { { heads = 1 }, { heads = 1 } }, dropout = 0.1,
                    residual = "rezero", reversible = true }
    local model = made { attention = false, kernel = softmax, layers = 1,
                         head_groups = { { heads = 1 }, { heads = 1 } } }
    local t = nn.build(model:tree()):tensors()
    local one, two = t["blocks.1.attention.projection"], t["blocks.1.attention2.projection"]
    assert.is_false(one:tobytes() == two:tobytes())
    local own = pf.kernel.custom { name = "attention_options_spec",
      map = function(x) return x:elu() + 1 end }
    pf.check.saved(made { attention = false, kernel = softmax,
      head_groups = { { heads = 1, kernel = own }, { heads = 1 } } }, ids_of(2, LENGTH))
  end)

  it("that fit nothing are told", function()
    for message, o in pairs {
      ["have 3 heads together, must be 2"] = { head_groups = { { heads = 1 }, { heads = 2 } } },
      ["head_groups: 1: option 'heads' is required"] = { head_groups = { { kernel = relu } } },
      ["head_groups: 2 must be {heads"] = { head_groups = { { heads = 1 }, 2 } },
      ["head_groups: 1: unknown option 'kernal'.*mean 'kernel'"] =
        { head_groups = { { heads = 2, kernal = relu } } },
      ["'auto' chooses for all heads"] = { head_groups = { { heads = 2, attention = "auto" } } },
      ["no whole share of 2 kv_heads"] =
        { heads = 4, kv_heads = 2, head_groups = { { heads = 1 }, { heads = 3 } } },
      ["head_groups must be a list of at least one"] = { head_groups = {} },
      ["don't go together"] = { head_groups = { { heads = 2 } }, kernel = { relu },
                                attention = false },
    } do
      assert.raises(message, function() made(with({ attention = false }, o)) end)
    end
  end)
end)
