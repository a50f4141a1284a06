-- Optimizers: every row of the engine's table against its formula, and what all of them share.
local pf = require "performer"
local support = require "spec.support"

-- A rule's options here, and one number's step by its formula: s = {p, and moments from zero},
-- gradient g, step t from 1, o the options with lr and with decay as it holds for this number.
local function adamw(s, g, t, o)
  s.m = o.beta1 * s.m + (1 - o.beta1) * g
  s.v = o.beta2 * s.v + (1 - o.beta2) * g * g
  local m, v = s.m / (1 - o.beta1 ^ t), s.v / (1 - o.beta2 ^ t)
  s.p = s.p - o.lr * (m / (math.sqrt(v) + o.eps) + o.decay * s.p)
end

local FORMULAS = {
  adamw = {
    options = { lr = 0.1, decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-8 },
    step = adamw,
  },
  adam = { -- torch.optim.Adam: weight_decay is a part of the gradient
    options = { lr = 0.1, decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-8 },
    step = function(s, g, t, o)
      local grad = g + o.decay * s.p
      s.m = o.beta1 * s.m + (1 - o.beta1) * grad
      s.v = o.beta2 * s.v + (1 - o.beta2) * grad * grad
      local m, v = s.m / (1 - o.beta1 ^ t), s.v / (1 - o.beta2 ^ t)
      s.p = s.p - o.lr * m / (math.sqrt(v) + o.eps)
    end,
  },
  muon = { -- of what is no linear layer's; the others: spec/muon_spec.lua
    options = { lr = 0.1, decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-8 },
    step = adamw,
  },
  sgd = {
    options = { lr = 0.05, decay = 0.2, momentum = 0.8 },
    step = function(s, g, _, o)
      s.m = o.momentum * s.m + g
      s.p = s.p - o.lr * (s.m + o.decay * s.p)
    end,
  },
  lion = {
    options = { lr = 0.1, decay = 0.2, beta1 = 0.7, beta2 = 0.9 },
    step = function(s, g, _, o)
      local mix = o.beta1 * s.m + (1 - o.beta1) * g
      local sign = mix > 0 and 1 or mix < 0 and -1 or 0
      s.p = s.p - o.lr * (sign + o.decay * s.p)
      s.m = o.beta2 * s.m + (1 - o.beta2) * g
    end,
  },
}

local START = { 1, -2, 0.3, 0 }

--- {vector, matrix}, both of START, and the numbers that the formulas keep of them.
local function parameters(decay)
  local own = { vector = pf.tensor(START), matrix = pf.tensor { START } }
  local want = { vector = { decay = 0 }, matrix = { decay = decay } }
  for _, side in pairs(want) do
    for i, p in ipairs(START) do side[i] = { p = p, m = 0, v = 0 } end
  end
  return own, want
end

--- Adds up (p - 0.2)^2 over both: 2 p - 0.4 is the gradient.
local function walk(own)
  local tape <close> = pf.tape()
  local a, b = own.vector - 0.2, own.matrix - 0.2
  tape:backward((a * a):sum() + (b * b):sum())
end

--- `steps` steps of a row and of its formula, beside each other; clip at a fifth of the norm.
local function compare(name, formula, steps)
  local own, want = parameters(formula.options.decay)
  local opt = pf.optim[name](own, formula.options)
  for t = 1, steps do
    walk(own)
    local squares, o = 0, {}
    for key, value in pairs(formula.options) do o[key] = value end
    for _, side in pairs(want) do
      for _, s in ipairs(side) do squares = squares + (2 * s.p - 0.4) ^ 2 end
    end
    local norm = math.sqrt(squares)
    assert.near(norm, opt:step { clip = norm / 5 }, 1e-4 * norm)
    for key, side in pairs(want) do
      local got = own[key]:reshape(-1):totable()
      o.decay = side.decay
      for i, s in ipairs(side) do
        formula.step(s, (2 * s.p - 0.4) / 5, t, o)
        assert.near(s.p, got[i], 1e-5, ("%s, step %d, %s %d"):format(name, t, key, i))
      end
    end
  end
end

describe("an optimizer", function()
  for _, row in ipairs(pf.optimizers()) do
    it("is as its formula has it: " .. row.name, function()
      local formula = FORMULAS[row.name]
      assert(formula, "spec/optim_spec.lua has no formula for " .. row.name)
      for key in pairs(formula.options) do
        local known = false
        for _, option in ipairs(row.options) do known = known or option.name == key end
        assert.is_true(known, key)
      end
      compare(row.name, formula, 7)
    end)

    it("says what it is and what it takes: " .. row.name, function()
      assert.is_true(#row.doc > 0 and #row.options > 0)
      for _, option in ipairs(row.options) do
        assert.is_true(#option.doc > 0 and #option.kind > 0, option.name)
        assert.is_true(#option.default > 0 or option.kind == "tree", option.name)
      end
      assert.raises(row.name .. ": unknown option 'decai' %(did you mean 'decay'%?%)",
        function() pf.optim[row.name]({ w = pf.zeros(2) }, { decai = 1 }) end)
    end)

    it("takes every number of a long parameter by itself: " .. row.name, function()
      local long, places, some = pf.randn(1, 40000), { 1, 16384, 16385, 30001, 40000 }, {}
      local flat = long:reshape(-1):totable()
      for i, at in ipairs(places) do some[i] = flat[at] end
      local own, apart = { w = long }, { w = pf.tensor { some } }
      for _, side in ipairs { own, apart } do
        local opt = pf.optim[row.name](side)
        for _ = 1, 3 do
          do
            local tape <close> = pf.tape()
            tape:backward((side.w * side.w):sum())
          end
          opt:step { lr = 0.1 }
        end
      end
      flat, some = own.w:reshape(-1):totable(), apart.w:reshape(-1):totable()
      for i, at in ipairs(places) do assert.equal(some[i], flat[at], at) end
    end)

    it("goes on with the same bits after save and load: " .. row.name, function()
      local folder = support.folder()
      finally(function() support.remove(folder) end)
      local function train(model, opt, steps)
        for _ = 1, steps do
          local tape <close> = pf.tape()
          tape:backward(model(pf.ones(1, 3)):mean_square(pf.ones(1, 2)))
          opt:step { lr = 0.01 }
        end
      end
      local model = pf.nn.linear { from = 3, to = 2 }
      local opt = pf.optim[row.name](model)
      train(model, opt, 3)
      assert(pf.checkpoint.save(folder, { model = model, optimizer = opt }))
      local saved = assert(pf.checkpoint.load(folder))
      train(model, opt, 4)
      train(saved.model, saved.optimizer, 4)
      assert.equal(model:tensors().weight:tobytes(), saved.model:tensors().weight:tobytes())
      assert.equal(7, saved.optimizer:steps())
    end)
  end

  it("steps by its own rate where none is given: its option, its row's, the file's", function()
    for _, row in ipairs(pf.optimizers()) do
      local default
      for _, option in ipairs(row.options) do
        if option.name == "lr" then default = tonumber(option.default) end
      end
      local folder = support.folder()
      for _, lr in ipairs { false, 0.02 } do
        local a = pf.nn.linear { from = 3, to = 2 }
        local b = pf.nn.build(a:tree())
        b:tensors().weight:copy_(a:tensors().weight)
        local own = pf.optim[row.name](a, { lr = lr or nil })
        local told = pf.optim[row.name](b, { lr = 77 })
        local function step(model, opt, options)
          do
            local tape <close> = pf.tape()
            tape:backward(model(pf.ones(1, 3)):mean_square(pf.ones(1, 2)))
          end
          opt:step(options)
        end
        step(a, own)
        step(b, told, { lr = lr or default })
        assert.equal(a:tensors().weight:tobytes(), b:tensors().weight:tobytes(), row.name)
        assert(pf.checkpoint.save(folder, { model = a, optimizer = own, step = 1 }))
        local saved = assert(pf.checkpoint.load(folder))
        step(saved.model, saved.optimizer, {})
        step(b, told, { lr = lr or default })
        assert.equal(saved.model:tensors().weight:tobytes(), b:tensors().weight:tobytes(),
                     row.name .. ", loaded")
      end
      support.remove(folder)
    end
    assert.raises("lr must be at least 0", function()
      pf.optim.sgd({ w = pf.zeros(2) }):step { lr = -0.1 }
    end)
  end)

  it("says what it takes to who gives something else", function()
    local w = pf.ones(2)
    assert.raises("init.lua:%d+: sgd: takes a model, not a function: a step is tape:back",
      function() return pf.optim.sgd(function() end, w, { learningRate = 0.1 }) end)
    for _, options in ipairs { 0.1, "lr", w, pf.nn.linear { from = 1, to = 1 } } do
      assert.raises("init.lua:%d+: adamw: options must be a table, as { lr = 0.001 }, got "
        .. pf.kind(options), function() return pf.optim.adamw({ w }, options) end)
    end
  end)

  it("takes betas for beta1 and beta2 where it has them", function()
    local a, b = { w = pf.tensor { 1, 2 } }, { w = pf.tensor { 1, 2 } }
    local pair = pf.optim.adamw(a, { lr = 0.1, betas = { 0.5, 0.6 } })
    local each = pf.optim.adamw(b, { lr = 0.1, beta1 = 0.5, beta2 = 0.6 })
    for i = 1, 3 do
      for own, opt in pairs { [a] = pair, [b] = each } do
        local tape <close> = pf.tape()
        tape:backward((own.w * (2 - i)):sum())
        opt:step {}
      end
    end
    assert.equal(a.w:tobytes(), b.w:tobytes())
    assert.raises("sgd: unknown option 'betas'",
      function() pf.optim.sgd(a, { betas = { 0.9, 0.9 } }) end)
  end)
end)

describe("an optimizer's step", function()
  local function layer() return { w = pf.tensor { 1, 2 } } end

  local function triple(w)
    local tape <close> = pf.tape()
    tape:backward((w * 3):sum())
  end

  it("moves the weights and clears the gradients", function()
    local own = layer()
    local opt = pf.optim.sgd(own, { lr = 0.1, momentum = 0 })
    triple(own.w)
    local norm = opt:step {}
    assert.near_tensor({ 0.7, 1.7 }, own.w)
    assert.near(math.sqrt(18), norm, 1e-5)
    assert.is_nil(own.w:grad())
    triple(own.w)
    triple(own.w)
    opt:step { lr = 0.01 }
    assert.near_tensor({ 0.64, 1.64 }, own.w)
  end)

  it("clips by the norm over all weights", function()
    local own = { a = pf.zeros(2), b = pf.zeros(2) }
    local opt = pf.optim.sgd(own, { lr = 1, momentum = 0 })
    do
      local tape <close> = pf.tape()
      tape:backward((own.a * 3):sum() + (own.b * 4):sum())
    end
    local norm = opt:step { clip = 1 }
    assert.near(math.sqrt(50), norm, 1e-5)
    assert.near_tensor({ -3 / math.sqrt(50), -3 / math.sqrt(50) }, own.a, 1e-6)
    assert.near_tensor({ -4 / math.sqrt(50), -4 / math.sqrt(50) }, own.b, 1e-6)
  end)

  it("has the norm of every part of a large gradient", function()
    local own = { w = pf.zeros(3, 40000) }
    local opt = pf.optim.sgd(own, { lr = 1, momentum = 0 })
    do
      local tape <close> = pf.tape()
      tape:backward((own.w * pf.tensor { { 1 }, { 2 }, { 3 } }):sum())
    end
    assert.near(math.sqrt(40000 * 14), opt:step {}, 1e-2)
  end)

  it("refuses a gradient that is not finite, and changes nothing", function()
    local own = layer()
    local opt = pf.optim.adamw(own, { lr = 0.1 })
    do
      local tape <close> = pf.tape()
      tape:backward((own.w * (0 / 0)):sum())
    end
    assert.raises("finite", function() opt:step { clip = 1 } end)
    assert.same({ 1, 2 }, own.w:totable())
    assert.equal(0, opt:steps())
  end)
end)
