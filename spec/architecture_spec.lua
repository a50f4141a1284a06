-- architecture_spec.lua - what the options of a model make of it, each held to the same model
-- written out in plain Lua: logits, gradients, streams against the whole, and what can't be.
-- (That options go through masks, documents, files and checkpoints is layers_spec's; those of
-- attention are in attention_options_spec.lua.)
local architecture = require "spec.support.architecture"
local child = require "spec.support.child"
local pf = require "performer"
local nn = pf.nn

local LENGTH = architecture.LENGTH
local with, made, ids_of = architecture.with, architecture.made, architecture.ids_of
local assert_model, assert_trains = architecture.assert_model, architecture.assert_trains
local combined = architecture.combined

describe("norms and biases", function()
  it("have the eps that is asked for", function()
    for _, o in ipairs(combined { norm = { "layernorm", "rmsnorm", "scalenorm" },
                                  norm_eps = { 0, 0.3 } }) do
      assert_model(o)
    end
  end)

  it("stand where each part says, else where bias does", function()
    local parts = { attention_bias = "%.attention%.", mlp_bias = "%.mlp%.", norm_bias = "norm",
                    head_bias = "head" }
    local all = { bias = { true, false } }
    for option in pairs(parts) do all[option] = { true, false } end
    for i, o in ipairs(combined(all)) do
      o.tied = i % 2 == 0
      local tensors = (i % 5 == 0 and assert_model or made)(o):tensors()
      for option, where in pairs(parts) do
        local found = false
        for name in pairs(tensors) do found = found or name:find(where) and name:find "bias$" end
        assert.are.equal(o[option], found ~= nil and found ~= false, option)
      end
    end
    for _, bias in ipairs { true, false } do
      local tensors = made({ bias = bias }):tensors()
      for _, name in ipairs { "norm", "blocks.1.norm1", "blocks.1.mlp.up",
                              "blocks.2.attention.qkv" } do
        assert.are.equal(bias, tensors[name .. ".bias"] ~= nil, name)
      end
      assert.is_nil(tensors.head_bias)
    end
  end)
end)

describe("gates of the mlp", function()
  it("are f(gate(x)) * up(x), with the f of their name", function()
    for _, act in ipairs { "swiglu", "geglu", "geglu_tanh", "reglu", "glu" } do
      local model = assert_model { act = act, bias = true }
      local gate = model:tensors()["blocks.1.mlp.gate.weight"]
      assert.are.same({ 24, 8 }, { table.unpack(gate:shape()) })
      assert_model { act = act, hidden = 5 }
    end
  end)
end)

describe("residuals", function()
  it("train, whole, in slices and run again", function()
    for _, residual in ipairs { "pre", "post", "rezero" } do
      assert_trains { residual = residual, norm = "scalenorm", dropout = 0.1 }
      assert_trains { residual = residual, norm = "layernorm", conv = 3 }
    end
  end)

  it("have their norms before, behind, or a number in their place", function()
    for _, o in ipairs(combined { residual = { "pre", "post", "rezero" }, conv = { 0 },
                                  norm = { "layernorm", "rmsnorm", "scalenorm" },
                                  final_norm = { true, false } }) do
      assert_model(o)
      o.final_norm = nil
      local tensors = assert_model(o):tensors()
      assert.are.equal(o.residual ~= "post", tensors["norm.weight"] ~= nil)
      assert.are.equal(o.residual ~= "rezero", tensors["blocks.1.norm1.weight"] ~= nil)
      assert.are.equal(o.residual == "rezero", tensors["blocks.1.mlp_scale"] ~= nil)
    end
  end)

  it("of rezero begin as nothing", function()
    local model = nn.performer { vocab = 5, dim = 8, heads = 2, layers = 2, residual = "rezero",
                                 positions = "none", final_norm = false }
    local x = pf.tensor({ { 1, 4, 2 } }, { dtype = "i32" })
    local table_ = model:tensors()["embedding.weight"]
    assert.bits_equal(pf.linear(pf.embedding(table_, x), table_), model(x))
  end)

  it("are reversible where inputs can be made again", function()
    assert.raises("child 1 has residual 'post'.*take pre or rezero", function()
      made { residual = "post", reversible = true }
    end)
    assert_trains { residual = "rezero", reversible = true }
    assert_trains { norm = "scalenorm", reversible = true }
  end)
end)

describe("the embedding", function()
  it("has a width and a norm of its own", function()
    local kinds = { "rotary", "learned", "sinusoidal" }
    for i, o in ipairs(combined { embedding_dim = { 0, 6, 8 }, embedding_norm = { true, false },
                                  bias = { true, false } }) do
      o.positions = kinds[i % 3 + 1]
      local model = assert_model(o)
      local t = model:tensors()
      local width = o.embedding_dim > 0 and o.embedding_dim or 8
      assert.are.equal(width, t["embedding.weight"]:size(2))
      assert.are.equal(o.embedding_dim > 0, t["widen.weight"] ~= nil)
      assert.are.equal(o.embedding_dim > 0 and o.bias, t["widen.bias"] ~= nil)
      assert.are.equal(o.embedding_norm, t["embedding_norm.weight"] ~= nil)
    end
  end)
end)

describe("the head", function()
  it("is the table, a matrix, or BERT's for masked tokens", function()
    for _, o in ipairs(combined { head = { "tied", "linear", "transform" }, tied = { true, false },
                                  embedding_dim = { 0, 6 }, causal = { true, false } }) do
      o.bias = o.tied == o.causal
      if o.head == "tied" then o.tied = nil end
      local t = assert_model(o):tensors()
      local own = o.head == "linear" or o.head == "transform" and not o.tied
      assert.are.equal(own, t["head.weight"] ~= nil)
      assert.are.equal(o.head == "tied" and o.embedding_dim == 6, t["narrow.weight"] ~= nil)
      assert.are.equal(o.head == "transform", (t["head_bias"] or t["head.bias"]) ~= nil)
    end
    for _, act in ipairs { "gelu", "gelu_tanh", "relu", "silu", "square_relu" } do
      assert_model { head = "transform", head_act = act, head_bias = false }
    end
  end)
end)

describe("shared blocks", function()
  it("are one block, whose weights stand once", function()
    for _, residual in ipairs { "pre", "post", "rezero" } do
      local model = assert_model { shared = true, layers = 3, residual = residual, bias = true }
      local one = made { layers = 1, residual = residual, bias = true }
      assert.are.equal(one:count(), model:count())
      assert.are.same({}, (function()
        local more = {}
        for name in pairs(model:tensors()) do
          if not one:tensors()[name] then more[#more + 1] = name end
        end
        return more
      end)())
    end
  end)

  it("train, and are drawn anew once", function()
    for _, o in ipairs { {}, { dropout = 0.1 }, { reversible = true }, { residual = "post" } } do
      assert_trains(with({ shared = true, layers = 3, embedding_dim = 6, embedding_norm = true,
                           head = "transform" }, o))
    end
    local model = made { shared = true, layers = 3, attention = "favor",
                         kernel = { features = 8, seed = 2, redraw = 1 } }
    local opt, x = pf.optim.adamw(model, { lr = 1e-3 }), ids_of(1, LENGTH)
    do
      local tape <close> = pf.tape()
      tape:backward(model(x):cross_entropy(x))
    end
    assert.are.equal(1, select(2, opt:step()))
  end)

  it("remember for each time that they are applied", function()
    local function bytes(options)
      return made(with({ layers = 3, attention = "favor", kernel = { features = 8, seed = 2 } },
        options)):state({ batch = 1 }):bytes()
    end
    assert.are.equal(bytes { shared = false }, bytes { shared = true })
  end)
end)

describe("token shift", function()
  it("takes half of the channels from the position before", function()
    for _, o in ipairs(combined { token_shift = { true }, causal = { true, false },
                                  residual = { "pre", "post" }, dim = { 8, 12 } }) do
      assert_model(o)
    end
    local x = pf.randn(2, 5, 3)
    local y = nn.shift(3)(x)
    assert.bits_equal(x:slice(3, 2, 3), y:slice(3, 2, 3))
    assert.near_tensor(pf.concat({ pf.zeros(2, 1, 1), x:slice(3, 1, 1):slice(2, 1, 4) }, 2),
      y:slice(3, 1, 1), 0) -- -0 is 0
  end)

  it("trains, whole, in slices and run again", function()
    assert_trains { token_shift = true }
    assert_trains { token_shift = true, conv = 3, reversible = true }
  end)
end)

describe("axial positions", function()
  it("are rows, or waves, of each axis", function()
    for _, positions in ipairs { "axial", "axial_sinusoidal" } do
      for _, axes in ipairs { { 2, 2, 2 }, { 1, 9 }, { 3, 3 }, { 7 } } do
        for _, embedding_dim in ipairs { 0, 14 } do
          assert_model { positions = positions, axes = axes, embedding_dim = embedding_dim }
        end
      end
      assert_trains { positions = positions, axes = { 4, 4, 2 } }
    end
  end)

  it("have an end, and sizes that are told", function()
    for _, positions in ipairs { "axial", "axial_sinusoidal" } do
      local model = made { positions = positions, axes = { 2, 3 } }
      assert.raises("axes hold 6 positions, 7 are needed", function() model(ids_of(1, 7)) end)
      local state = model:state { batch = 1 }
      model:prefill(ids_of(1, 6), state)
      assert.raises("axes hold 6 positions, 7 are needed", function()
        model:step(ids_of(1, 1):reshape(1), state)
      end)
      for _, axes in ipairs { {}, { 0 }, { 2.5 }, { "two" }, { 4096, 4097 },
                              { 1, 1, 1, 1, 1, 1, 1, 1, 1 } } do
        assert.raises("needs axes, a list", function()
          made { positions = positions, axes = axes }
        end)
      end
      assert.raises("needs axes, a list", function() made { positions = positions } end)
    end
  end)
end)

describe("options of all sorts", function()
  it("give the same bits on any number of threads", function()
    local function trained(threads)
      return child.run([[
        for i, o in ipairs {
          { residual = "post", shared = true, embedding_dim = 6, embedding_norm = true,
            head = "transform", attention_dropout = 0.1, positions = "axial", axes = { 6, 50 } },
          { residual = "rezero", norm = "scalenorm", act = "geglu", token_shift = true,
            attention = { "exact", "favor" }, kernel = { features = 8, seed = 2 } },
          { attention = "exact", attention_dropout = 0.1, act = "glu",
            rotary_pairs = "neighbours", head_bias = true },
        } do
          o.vocab, o.dim, o.layers, o.heads, o.causal = 13, 16, 2, 2, true
          pf.seed(i)
          local model = pf.nn.performer(o)
          local opt = pf.optim.adamw(model, { lr = 1e-2 })
          local x = array.tensor(array.random(3):whole({ 3, 300 }, 0, 12))
          for step = 1, 3 do
            local tape <close> = pf.tape()
            local loss = model(x, { training = true, step = step }):cross_entropy(x)
            tape:backward(loss)
            print(loss:item(), opt:step())
          end
          for name, t in pf.sorted(model:tensors()) do
            print(name, #t:tobytes(), (t * t):sum():item(), t:sum():item())
          end
        end]], ("{ threads = %d }"):format(threads))
    end
    local one = trained(1)
    for _, threads in ipairs { 2, 5 } do assert.are.equal(one, trained(threads)) end
  end)
end)
