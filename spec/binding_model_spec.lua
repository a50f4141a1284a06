-- binding_model_spec.lua - kernels, layers (the table's and one's own), streaming, training
-- and the checks for users, as Lua sees them.
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local i32 = { dtype = "i32" }

describe("kernel", function()
  local q, k, v = pf.randn(2, 3, 20, 8) * 0.5, pf.randn(2, 3, 20, 8) * 0.5, pf.randn(2, 3, 20, 8)

  it("describes itself and checks its options", function()
    assert.equal("softmax kernel: 16 positive orthogonal features, redraw never",
      tostring(pf.kernel.softmax { features = 16 }))
    assert.equal("relu kernel: not projected, eps 0.01", tostring(pf.kernel.relu { eps = 1e-2 }))
    assert.raises("unknown option 'feature' %(did you mean 'features'%?%)",
      function() pf.kernel.softmax { feature = 1 } end)
    assert.raises("no 'softmx' %(did you mean 'softmax'%?%)", function() pf.kernel.softmx {} end)
    assert.raises("features", function() pf.kernel.softmax { features = -1 } end)
    assert.raises("map must be a function", function() pf.kernel.custom {} end)
  end)

  it("draws its projection from its seed", function()
    local a = pf.kernel.softmax { head_dim = 8, features = 16, seed = 7 }
    local b = pf.kernel.softmax { head_dim = 8, features = 16, seed = 7 }
    local c = pf.kernel.softmax { head_dim = 8, features = 16, seed = 8 }
    assert.bits_equal(a:projection(), b:projection())
    assert.is_true(support.distance(a:projection(), c:projection()) > 0.1)
    assert.same({ 16, 8 }, { table.unpack(a:projection():shape()) })
    assert.same({ 3, 16, 8 }, { table.unpack(a:projection(8, 3):shape()) })
    assert.is_nil(pf.kernel.relu { head_dim = 8 }:projection())
    assert.raises("give head_dim", function() pf.kernel.softmax {}:projection() end)
  end)

  it("takes a given projection, and checks it", function()
    local W = pf.randn(12, 8)
    local given = pf.kernel.softmax { projection = W }
    assert.bits_equal(W, given:projection())
    assert.matches("12 positive given features", tostring(given))
    assert.same({ 2, 3, 20, 12 }, { table.unpack(given:features(q, "query"):shape()) })
    assert.raises("features is 4, the projection has 12",
      function() pf.kernel.softmax { projection = W, features = 4 } end)
    assert.raises("must be %(features, head_dim%)",
      function() pf.kernel.softmax { projection = pf.zeros(3) } end)
    assert.raises("projection must be a tensor",
      function() pf.kernel.softmax { projection = 3 } end)
    assert.raises("a given projection is not drawn again",
      function() pf.kernel.softmax { projection = W, redraw = 5 } end)
    assert.raises("needs the projection", function() pf.kernel.softmax { rows = "given" } end)
  end)

  it("estimates softmax: features multiply to exp(q.k / sqrt(d))", function()
    local kernel = pf.kernel.softmax { features = 4096, head_dim = 8, seed = 3 }
    local fq, fk = kernel:features(q, "query"), kernel:features(k, "key")
    local estimate = fq:matmul(fk:transpose(3, 4))
    local exact = (q:matmul(k:transpose(3, 4)) * 8 ^ -0.5):exp()
    local gap = ((estimate - exact) ^ 2):mean():item() / (exact ^ 2):mean():item()
    assert.is_true(gap < 0.02, gap)
    assert.raises("side is \"query\" or \"key\"", function() kernel:features(q, "value") end)
  end)

  it("of one's own equals the built-in one", function()
    local mine = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
    for _, causal in ipairs { false, true } do
      local own = pf.attention.favor(q, k, v, { kernel = mine, causal = causal })
      local built_in = pf.attention.favor(q, k, v, { kernel = pf.kernel.elu {}, causal = causal })
      assert.near_tensor(built_in, own, 1e-5)
    end
    assert.equal("custom kernel", tostring(mine))
  end)

  it("forgets where a causal attention is given a decay", function()
    -- One head, equal scores: the weights are exp(-decay) a token, and no more.
    local one, decay = pf.ones(1, 1, 2, 1), pf.tensor { math.log(3) }
    local values = pf.tensor({ 0, 1 }):reshape(1, 1, 2, 1)
    local options = { causal = true, decay = decay }
    assert.near(0.75, pf.attention.linear(one, one, values, options)[1][1][2]:item(), 1e-6)
    assert.near(0.75, pf.attention.exact(one, one, values, options)[1][1][2]:item(), 1e-6)
    options.kernel = "elu"
    assert.near(0.75, pf.attention.favor(one, one, values, options)[1][1][2]:item(), 1e-6)
    assert.raises("causal", function() pf.attention.exact(one, one, values, { decay = decay }) end)
  end)

  it("works in every attention", function()
    assert.bits_equal(v, pf.attention.identity(q, k, v, { causal = true }))
    local features = pf.kernel.softmax { features = 4096, head_dim = 8, seed = 4 }
    local exact = pf.attention.exact(q, k, v, { causal = true })
    local estimate = pf.attention.favor(q, k, v, { kernel = features, causal = true })
    assert.near_tensor(exact, estimate, 0.2)
    local report = pf.attention.compare(features, { length = 64, dim = 8, seed = 1 })
    assert.is_true(report.error < 0.5 and report.ms > 0 and report.exact_ms > 0)
    assert.raises("unknown option 'casual' %(did you mean 'causal'%?%)",
      function() pf.attention.favor(q, k, v, { casual = true }) end)
    assert.raises("k must be a tensor", function() pf.attention.favor(q, 1, v) end)
    assert.raises("there is no kernel 'rleu' %(did you mean 'relu'%?%)",
      function() pf.attention.favor(q, k, v, { kernel = "rleu" }) end)
    assert.raises("q must be %(B, H, L, d%), got %[2%]", function()
      pf.attention.exact(pf.zeros(2), pf.zeros(2), pf.zeros(2))
    end)
  end)

  it("gives and takes states", function()
    local kernel = pf.kernel.softmax { features = 16, head_dim = 8, seed = 3 }
    local whole = pf.attention.favor(q, k, v, { kernel = kernel, causal = true })
    local function part(first, last, entry)
      return pf.attention.favor(q:slice(3, first, last), k:slice(3, first, last),
        v:slice(3, first, last), { kernel = kernel, causal = true, state = true, entry = entry })
    end
    local a, state = part(1, 13)
    local b = part(14, 20, state)
    assert.near_tensor(whole, pf.concat({ a, b }, 3), 1e-5)
  end)

  it("streams", function()
    local custom = pf.kernel.custom { map = function(x) return x:elu() + 1 end }
    for _, kernel in ipairs { pf.kernel.softmax { features = 16, head_dim = 8, seed = 3 },
      pf.kernel.elu { head_dim = 8 }, custom } do
      local whole = pf.attention.favor(q, k, v, { kernel = kernel, causal = true })
      local state = pf.attention.state { kernel = kernel, batch = 2, heads = 3, value_dim = 8 }
      local function piece(t, first, last) return t:slice(3, first, last) end
      local outs = { state:prefill(piece(q, 1, 11), piece(k, 1, 11), piece(v, 1, 11)) }
      local fork = state:fork()
      local bytes = state:bytes()
      for i = 12, 20 do
        outs[#outs + 1] = state:step(piece(q, i, i), piece(k, i, i), piece(v, i, i))
      end
      assert.near_tensor(whole, pf.concat(outs, 3), 1e-5)
      assert.equal(20, state:position())
      assert.equal(bytes, state:bytes())
      assert.is_true(bytes > 0)
      assert.equal(11, fork:position())
      assert.near_tensor(piece(whole, 12, 12),
        fork:step(piece(q, 12, 12), piece(k, 12, 12), piece(v, 12, 12)), 1e-5)
      assert.matches("state after 20 tokens", tostring(state))
    end
  end)
end)

describe("nn", function()
  local function tiny(options)
    local o = { vocab = 32, dim = 16, layers = 2, heads = 2, length = 32, causal = true,
      kernel = pf.kernel.softmax { features = 16 } }
    for key, value in pairs(options or {}) do o[key] = value end
    return nn.performer(o)
  end

  it("has a constructor for every layer of the table", function()
    for _, layer in ipairs(pf.layers()) do
      assert.is_function(nn[layer.type], layer.type)
      assert.is_true(#layer.doc > 5, layer.type)
    end
    assert.raises("no 'layernrm' %(did you mean 'layernorm'%?%)", function() nn.layernrm(3) end)
  end)

  it("takes options, a bare number, and children", function()
    local model = nn.chain {
      nn.linear { from = 4, to = 8 },
      nn.residual { nn.layernorm(8), nn.mlp { dim = 8 } },
      nn.repeated(2, function() return nn.layernorm(8) end),
      nn.linear { from = 8, to = 2, bias = false },
    }
    assert.same({ 5, 2 }, { table.unpack(model(pf.randn(5, 4)):shape()) })
    assert.equal("chain", model:type())
    assert.equal(4, #model)
    assert.equal(2, #model:children()[3])
    assert.equal(8, model:children()[1]:options().to)
    assert.matches("linear { from = 8, to = 2, bias = false }", tostring(model))
    assert.matches("^chain  %-%- %d+ parameters", tostring(model))
    assert.raises("linear: .*'too'.*'to'", function() nn.linear { from = 1, too = 2 } end)
    assert.raises("a bare number says too little", function() nn.linear(3) end)
    assert.raises("a layer is needed", function() nn.chain { 3 } end)
    assert.raises("a table with a `forward`", function() nn.chain { {} } end)
    assert.raises("takes no children",
      function() nn.linear { from = 1, to = 1, nn.layernorm(1) } end)
  end)

  it("gives its tensors in a stable order", function()
    local model = nn.chain { nn.linear { from = 2, to = 3 }, nn.layernorm(3) }
    local parameters, names = model:parameters()
    assert.equal(#parameters, #names)
    assert.equal(2 * 3 + 3 + 3 + 3, (model:count()))
    local tensors, total = model:tensors(), 0
    for _, t in pairs(tensors) do total = total + t:numel() end
    assert.equal(select(2, model:count()), total)
    for i, name in ipairs(names) do assert.is_true(tensors[name] == parameters[i]) end
    assert.is_true(parameters[1]:wants_grad())
  end)

  it("runs on batches, with masks and documents", function()
    local model = tiny()
    local ids = pf.tensor({ { 1, 2, 3, 4 } }, i32)
    local plain = model(ids)
    assert.same({ 1, 4, 32 }, { table.unpack(plain:shape()) })
    assert.bits_equal(plain, model { input = ids })
    local documents = pf.tensor({ { 1, 1, 2, 2 } }, i32)
    local cut = model { input = ids, documents = documents }
    assert.bits_equal(plain:slice(2, 1, 2), cut:slice(2, 1, 2))
    assert.is_true(support.distance(plain, cut) > 1e-4)
    assert.bits_equal(cut, model(ids, { documents = documents }))
    assert.raises("unknown option 'msk'", function() model(ids, { msk = 1 }) end)
    assert.raises("x must be a tensor, got nil", function() model {} end)
  end)

  it("rebuilds from its tree", function()
    local model = tiny()
    local again = nn.build(model:tree())
    assert.same(model:tree(), again:tree())
    assert.equal(model:count(), (again:count()))
  end)

  it("drops out in training only", function()
    local layer, x = nn.dropout(0.5), pf.ones(1000)
    assert.bits_equal(x, layer(x))
    local a = layer(x, { training = true, step = 1 })
    assert.bits_equal(a, layer(x, { training = true, step = 1 }))
    local b = layer(x, { training = true, step = 2 })
    assert.is_false(a:tobytes() == b:tobytes())
    assert.bits_equal(b, layer({ input = x }, { training = true, step = 2 }))
    assert.bits_equal(a, layer({ input = x, step = 1 }, { training = true }))
    assert.raises("unknown option 'stp' %(did you mean 'step'%?%)", function()
      layer({ input = x }, { stp = 2 })
    end)
    local tape <close> = pf.tape()
    assert.is_false(layer(x):tobytes() == x:tobytes())
    assert.bits_equal(x, layer(x, { training = false }))
    assert.is_not_nil(tape)
  end)

  it("takes layers of one's own", function()
    local function scale(dim)
      return {
        name = "scale", w = pf.full({ dim }, 2), buffers = { shift = pf.ones(dim) },
        inner = nn.linear { from = dim, to = dim },
        forward = function(self, x) return self.inner(x * self.w) + self.buffers.shift end,
      }
    end
    local own = scale(3)
    local model = nn.chain { nn.layernorm(3), own, nn.module(scale(3)) }
    local x = pf.randn(4, 3)
    assert.same({ 4, 3 }, { table.unpack(model(x):shape()) })
    assert.equal(6 + 2 * (3 + 9 + 3), (model:count()))
    assert.is_true(own.w:wants_grad())
    assert.is_false(own.buffers.shift:wants_grad())
    do
      local tape <close> = pf.tape()
      tape:backward(model(x):sum())
    end
    assert.is_not_nil(own.w:grad())
    local names = {}
    for name in pairs(model:tensors()) do names[#names + 1] = name end
    table.sort(names)
    assert.equal(2 + 2 * 4, #names)
    assert.matches("lua scale", tostring(model))
  end)

  it("hands the pass on to the layers inside", function()
    local seen
    local model = nn.chain { { forward = function(self, x, pass)
      seen = pass
      return self.drop(x)
    end, drop = nn.dropout(0.5) } }
    local x = pf.ones(1, 100, 2)
    assert.bits_equal(x, model(x))
    assert.is_false(seen.training)
    local mask = pf.ones(1, 100, i32)
    local y = model(x, { training = true, step = 3, mask = mask })
    assert.is_true(seen.training and seen.step == 3 and seen.mask == mask)
    assert.is_false(y:tobytes() == x:tobytes())
  end)

  it("lets errors of Lua layers through, with the layer's path before a text", function()
    local function failing(what)
      return nn.chain { { forward = function() error(what, 0) end } }
    end
    local x = pf.ones(2)
    local ok, message = pcall(failing "my own words", x)
    assert.is_false(ok)
    assert.equal("layer 1: my own words", message)
    local thrown = { code = 3 }
    ok, message = pcall(failing(thrown), x)
    assert.is_false(ok)
    assert.equal(thrown, message)
    assert.raises("binding_model_spec.lua:%d+: layer 1: matmul: a is %[2%]", function()
      nn.chain { { forward = function(_, t) return t:matmul(pf.zeros(3, 3)) end } }(x)
    end)
    assert.raises("must return a tensor, got string", function()
      nn.module { forward = function() return "x" end }(x)
    end)
    assert.near_tensor({ 1, 1 }, nn.chain {}(x)) -- and all goes on
  end)

  it("generates, streaming as the whole model does", function()
    local model = tiny()
    local prompt = { 3, 1, 4, 1, 5 }
    local stream = model:stream { batch = 1 }
    stream:feed(prompt)
    local whole = model(pf.tensor({ prompt }, i32))[1]
    assert.near_tensor(whole[5], stream:logits(), 1e-4)
    local bytes = stream:bytes()
    assert.equal(whole[5]:argmax():item() - 1, stream:sample())
    assert.is_number(stream:next(7))
    assert.near_tensor(model(pf.tensor({ { 3, 1, 4, 1, 5, 7 } }, i32))[1][6], stream:logits(), 1e-4)
    assert.equal(bytes, stream:bytes())
    local ids = model:generate { prompt = prompt, tokens = 12 }
    assert.equal(12, #ids)
    assert.same(ids, model:generate { prompt = prompt, tokens = 12 })
    local as_tensor = model:generate { prompt = pf.tensor(prompt, i32), tokens = 12 }
    assert.same(ids, as_tensor:totable())
    local sampled = { prompt = prompt, tokens = 30, temperature = 2, seed = 5 }
    local first = model:generate(sampled)
    assert.same(first, model:generate(sampled))
    sampled.seed = 6
    assert.is_false(table.concat(first, " ") == table.concat(model:generate(sampled), " "))
    local only = model:generate { prompt = prompt, tokens = 20, temperature = 5, allow = { 4, 9 } }
    for _, id in ipairs(only) do assert.is_true(id == 4 or id == 9) end
    assert.equal(0, #model:generate { prompt = prompt, tokens = 5, stop = ids[1] })
    local heard = 0
    model:generate { prompt = prompt, tokens = 9, each = function()
      heard = heard + 1
      return heard < 4
    end }
    assert.equal(4, heard)
    assert.is_string(model:generate { prompt = "\1\2", tokens = 4, tokenizer = "byte" })
    assert.raises("needs its tokenizer", function() model:generate { prompt = "abc" } end)
    assert.raises("unknown option 'temprature'", function() model:generate { temprature = 1 } end)
    assert.raises("top_p must be in", function() stream:sample { top_p = 0 } end)
    stream:close()
    assert.raises("stream has been closed", function() stream:sample() end)
  end)

  it("steps several sequences at once", function()
    local model = tiny()
    local ids = pf.tensor({ { 1, 2, 3, 4 }, { 5, 6, 7, 8 } }, i32)
    local state = model:state { batch = 2 }
    model:prefill(ids:slice(2, 1, 3), state)
    local last = model:step(ids:slice(2, 4, 4):reshape(2), state)
    assert.near_tensor(model(ids):slice(2, 4, 4):reshape(2, 32), last, 1e-4)
    assert.equal(4, state:position())
  end)

  it("streams layers of one's own that can", function()
    local sum = { forward = function(_, x) return x end }
    function sum.step(_, x, state)
      state.total = state.total and state.total + x or x
      return state.total
    end
    local model = nn.chain { sum }
    local state = model:state { batch = 1 }
    model:step(pf.ones(1, 2), state)
    assert.near_tensor({ { 2, 2 } }, model:step(pf.ones(1, 2), state))
    assert.raises("stream", function()
      nn.chain { { forward = function(_, x) return x end } }:state { batch = 1 }
    end)
  end)
end)

describe("training", function()
  it("learns", function()
    pf.seed(3)
    local w_true, x = pf.randn(4, 2), pf.randn(64, 4)
    local y = x:matmul(w_true)
    local layer = { w = pf.zeros(4, 2) }
    function layer:forward(input) return input:matmul(self.w) end
    local opt = pf.optim.adamw(layer, { lr = 0.1, decay = 0, betas = { 0.9, 0.99 } })
    local norm
    for _ = 1, 200 do
      local tape <close> = pf.tape()
      local loss = x:matmul(layer.w):mean_square(y)
      tape:backward(loss)
      norm = opt:step { clip = 1 }
    end
    assert.near_tensor(w_true, layer.w, 1e-2)
    assert.is_true(norm >= 0 and norm < 1)
    assert.equal(200, opt:steps())
    assert.matches("after 200 steps", tostring(opt))
    assert.is_nil(layer.w:grad())
  end)

  it("steps plainly with sgd, on plain tables of tensors", function()
    local bag = { a = pf.tensor { 1, 2 }, deep = { b = pf.tensor { 3 } } }
    local opt = pf.optim.sgd(bag, { lr = 0.5, momentum = 0 })
    do
      local tape <close> = pf.tape()
      tape:backward((bag.a * bag.a):sum() + bag.deep.b:sum())
    end
    local norm = opt:step {}
    assert.near_tensor({ 0, 0 }, bag.a)
    assert.near_tensor({ 2.5 }, bag.deep.b)
    assert.is_true(math.abs(norm - 21 ^ 0.5) < 1e-5)
  end)

  it("checks its options", function()
    local layer = nn.layernorm(2)
    assert.raises("'lrr'.*'lr'", function() pf.optim.adamw(layer, { lrr = 1 }) end)
    assert.raises("betas is a list of two", function() pf.optim.adamw(layer, { betas = 0.9 }) end)
    assert.raises("a module, or a table with tensors", function() pf.optim.adamw(3) end)
    local opt = pf.optim.adamw(layer, { lr = 1 })
    assert.raises("unknown option 'clp'", function() opt:step { clp = 1 } end)
    assert.raises("no 'adamx' %(did you mean 'adam'%?%)", function() pf.optim.adamx(layer) end)
  end)

  it("has schedules", function()
    local lr = pf.schedule.cosine { warmup = 10, steps = 110, peak = 1, floor = 0.1 }
    assert.is_true(math.abs(lr(5) - 0.5) < 1e-9)
    assert.is_true(math.abs(lr(10) - 1) < 1e-9)
    assert.is_true(math.abs(lr(110) - 0.1) < 1e-9)
    assert.equal(3, pf.schedule.constant { peak = 3 }(9))
    assert.raises("cosine: option 'peak' is required", function() pf.schedule.cosine {} end)
  end)

  it("redraws the kernels that are due", function()
    local model = nn.attention { dim = 8, heads = 2, causal = true,
      kernel = { name = "softmax", features = 8, redraw = 2 } }
    local opt = pf.optim.sgd(model, { lr = 0, momentum = 0 })
    local drawn = {}
    for i = 1, 4 do
      local tape <close> = pf.tape()
      tape:backward(model(pf.randn(1, 5, 8)):sum())
      drawn[i] = select(2, opt:step {})
    end
    assert.same({ 0, 1, 0, 1 }, drawn)
  end)
end)

describe("check", function()
  it("passes right gradients and catches wrong ones", function()
    local x, w = pf.randn(3, 4), pf.randn(4, 2)
    local report = pf.check.gradient(function(a, b) return a:matmul(b):tanh() end, { x, w })
    assert.is_true(report.ok and report.worst < 1e-2 and #report.inputs == 2)
    assert.is_false(x:wants_grad())
    local layer = pf.nn.linear { from = 4, to = 2 } -- stands for its parameters
    report = pf.check.gradient(function() return layer(x):tanh() end, layer)
    assert.is_true(report.ok and #report.inputs == 2)
    local function wrong(a) return a + (a * a):detach() end -- the square is hidden from the tape
    assert.raises("check.gradient: the gradient is wrong.*input 1: relative error",
      function() pf.check.gradient(wrong, x) end)
    assert.is_false(pf.check.gradient(wrong, x, { raise = false }).ok)
    assert.raises("own words",
      function() pf.check.gradient(function() error "own words" end, x) end)
    assert.raises("a function is needed", function() pf.check.gradient(1, x) end)
  end)

  it("tells equal runs from unequal ones", function()
    local x = pf.randn(10)
    assert.is_true(pf.check.deterministic(function() return x:exp(), 3 end))
    assert.raises("result 1 of run 2 differs",
      function() pf.check.deterministic(function() return pf.randn(10) end) end)
  end)
end)
