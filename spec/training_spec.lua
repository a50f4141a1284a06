-- What stands around an optimizer's rule: groups of parameters, frozen ones, averages of the
-- weights and their checkpoints, and schedules of the learning rate.
local pf = require "performer"
local support = require "spec.support"

--- A model of two layers, and a step of the optimizer on fixed data.
local function small()
  pf.seed(4)
  return pf.nn.chain { pf.nn.linear { from = 3, to = 4, act = "gelu" },
                       pf.nn.linear { from = 4, to = 2 } }
end

local function gradient(model)
  local tape <close> = pf.tape()
  local x = pf.tensor { { 1, 2, -1 }, { 0.5, -2, 0 } }
  tape:backward(model(x):mean_square(pf.ones(2, 2)))
end

local function train(model, opt, steps, lr)
  for _ = 1, steps do
    gradient(model)
    opt:step { lr = lr or 0.05 }
  end
end

local function bits(model)
  local all = {}
  for name, tensor in pf.sorted(model:tensors()) do all[#all + 1] = name .. tensor:tobytes() end
  return table.concat(all)
end

describe("groups of parameters", function()
  it("have a rate and a decay of their own", function()
    local plain, grouped = small(), small()
    local opt = pf.optim.sgd(plain, { momentum = 0, decay = 0 })
    local other = pf.optim.sgd(grouped, { momentum = 0, decay = 0, groups = {
      { match = "1", lr_scale = 0.5, decay = 0.3 }, { match = "2.bias", lr_scale = 0 } } })
    local before = plain:tensors()
    for name, tensor in pairs(before) do before[name] = tensor:detach() end
    train(plain, opt, 1, 0.1)
    train(grouped, other, 1, 0.1)
    local a, b = plain:tensors(), grouped:tensors()
    assert.bits_equal(a["2.weight"], b["2.weight"])
    assert.bits_equal(before["2.bias"], b["2.bias"])
    assert.near_tensor(before["1.bias"] + (a["1.bias"] - before["1.bias"]) * 0.5, b["1.bias"], 1e-6)
    assert.near_tensor(before["1.weight"] * (1 - 0.05 * 0.3)
      + (a["1.weight"] - before["1.weight"]) * 0.5, b["1.weight"], 1e-6)
  end)

  it("take the first pattern that fits, and any option of the row but the common ones", function()
    local one, two = small(), small()
    local opt = pf.optim.adamw(one, { beta1 = 0.5, decay = 0.2 })
    local other = pf.optim.adamw(two, { decay = 0.2, groups = {
      { match = "*.bias|1", beta1 = 0.5 }, { match = "*", beta1 = 0.5 },
      { match = "2", beta1 = 0.1 } } })
    train(one, opt, 3)
    train(two, other, 3)
    assert.equal(bits(one), bits(two))
    for _, name in ipairs { "lr", "ema", "groups", "type" } do
      assert.raises("adamw: groups%[1%]: unknown option '" .. name, function()
        pf.optim.adamw(one, { groups = { { match = "1", [name] = 0 } } })
      end)
    end
  end)

  it("fit runs of whole parts, or with wildcards the whole name", function()
    local names = { "blocks.1.mlp.up.weight", "blocks.10.mlp.up.weight", "blocks.1.norm1.weight" }
    local function found(pattern)
      local layer = {}
      for i, name in ipairs(names) do layer[i] = { name = name, tensor = pf.ones(1) } end
      local all = ""
      for _, entry in ipairs(layer) do
        local own = {}
        local at = own -- a.b.c as nested tables
        for part in entry.name:gmatch "([^.]+)%." do
          at[part] = {}
          at = at[part]
        end
        at.weight = entry.tensor
        local ok = pcall(pf.optim.sgd, own, { groups = { { match = pattern } } })
        all = all .. (ok and "+" or "-")
      end
      return all
    end
    for pattern, want in pairs { ["blocks.1"] = "+-+", ["mlp"] = "++-", ["up.weight"] = "++-",
                                 ["blocks.*.weight"] = "+++", ["blocks.?.*"] = "+-+",
                                 ["*norm*"] = "--+", ["norm"] = "---", ["*"] = "+++",
                                 ["nothing|norm1"] = "--+", ["*.up.*|norm1"] = "+++",
                                 ["blocks.1*"] = "+++", [""] = "---", ["|"] = "---" } do
      assert.equal(want, found(pattern), pattern)
    end
  end)

  it("say what is wrong with them", function()
    local model = small()
    for message, groups in pairs {
      ["sgd: groups%[2%]: 'match' = '3' fits no parameter; they are called 1.weight, 1.bias"]
        = { { match = "1" }, { match = "3" } },
      ["sgd: groups%[1%]: option 'match' is required"] = { { lr_scale = 2 } },
      ["sgd: groups%[1%]: unknown option 'lr_scal' %(did you mean 'lr_scale'%?%)"]
        = { { match = "1", lr_scal = 2 } },
      ["sgd: groups%[1%]: unknown option 'beta1'"] = { { match = "1", beta1 = 0.5 } },
      ["'groups' must be a list of maps"] = { match = "1" },
      ["options must be a map"] = { "1" },
    } do
      assert.raises(message, function() pf.optim.sgd(model, { groups = groups }) end)
    end
  end)

  it("go into checkpoints", function()
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local model = small()
    local opt = pf.optim.adamw(model, { groups = { { match = "*.bias", lr_scale = 0.1 } } })
    train(model, opt, 2)
    assert(pf.checkpoint.save(folder, { model = model, optimizer = opt }))
    local saved = assert(pf.checkpoint.load(folder))
    train(model, opt, 2)
    train(saved.model, saved.optimizer, 2)
    assert.equal(bits(model), bits(saved.model))
  end)
end)

describe("a frozen parameter", function()
  it("stays as it is and has no moments", function()
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local model = small()
    local frozen = model:tensors()["1.weight"]
    frozen:requires_grad(false)
    local opt, before = pf.optim.adamw(model, { ema = 0.9 }), frozen:tobytes()
    train(model, opt, 2)
    assert.equal(before, frozen:tobytes())
    local path = assert(pf.checkpoint.save(folder, { model = model, optimizer = opt }))
    local kept = assert(pf.load(path .. "/optimizer.safetensors"))
    assert.is_nil(kept["1.weight.m"])
    assert.is_nil(kept["1.weight.ema"])
    assert.truthy(kept["1.bias.m"] and kept["1.bias.ema"])
    -- another set of parameters is another optimizer's
    local all = small()
    local _, message = pf.checkpoint.load(folder,
      { model = all, optimizer = pf.optim.adamw(all, { ema = 0.9 }) })
    assert.matches("'1.weight.m' is missing: that parameter was not trained", message)
    all:tensors()["1.weight"]:requires_grad(false)
    all:tensors()["2.weight"]:requires_grad(false)
    _, message = pf.checkpoint.load(folder,
      { model = all, optimizer = pf.optim.adamw(all, { ema = 0.9 }) })
    assert.matches("3 tensors of parameters that are not trained here %(frozen since%?%).*"
      .. "the first is '2.weight.m'", message)
  end)

  it("may be frozen later, but must be known to be trained", function()
    local model = small()
    local opt, w = pf.optim.sgd(model), model:tensors()["1.weight"]
    w:requires_grad(false)
    local before = w:tobytes()
    train(model, opt, 1)
    assert.equal(before, w:tobytes())
    local other = pf.optim.sgd(model)
    w:requires_grad(true)
    gradient(model)
    assert.raises("'1.weight' requires a gradient and did not when the optimizer was made",
      function() other:step {} end)
    opt:step {}
    for _, tensor in pairs(model:tensors()) do tensor:requires_grad(false) end
    assert.raises("no parameters that require a gradient", function() pf.optim.sgd(model) end)
  end)
end)

describe("an average of the weights", function()
  it("is as its formula has it", function()
    local own = { w = pf.tensor { { 1, -2, 0.5 } } }
    local opt, want = pf.optim.sgd(own, { momentum = 0, ema = 0.4 }), { 1, -2, 0.5 }
    for t = 1, 6 do
      do
        local tape <close> = pf.tape()
        tape:backward((own.w * t):sum())
      end
      opt:step { lr = 0.1 }
      local rate = math.min(0.4, (1 + t) / (10 + t))
      for i, p in ipairs(own.w:totable()[1]) do want[i] = want[i] + (1 - rate) * (p - want[i]) end
    end
    local weights = own.w:tobytes()
    local average = opt:averaged(function() return own.w:detach() end)
    assert.near_tensor({ want }, average, 1e-6)
    assert.equal(weights, own.w:tobytes())
  end)

  it("stands in the weights' place while it is used, and never longer", function()
    local model = small()
    local opt = pf.optim.adamw(model, { ema = 0.99 })
    assert.is_true(opt:has_average())
    train(model, opt, 3)
    local weights = bits(model)
    assert.raises("my words", function() opt:averaged(function() error "my words" end) end)
    assert.equal(weights, bits(model))
    local a, b = opt:averaged(function(x, y) return bits(model), x + y end, 2, 3)
    assert.is_true(a ~= weights and b == 5)
    opt:use_average(true)
    opt:use_average(true)
    assert.equal(a, bits(model))
    gradient(model)
    assert.raises("the averages stand in the weights' place; no step until",
      function() opt:step {} end)
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local _, message = pf.checkpoint.save(folder, { model = model, optimizer = opt })
    assert.matches("no checkpoint of the optimizer until", message)
    assert(pf.checkpoint.save(folder, { model = model, step = 1 }))
    assert.equal(a, bits(assert(pf.checkpoint.load(folder)).model))
    opt:close()
    assert.equal(weights, bits(model))
    local plain = pf.optim.adamw(model)
    assert.is_false(plain:has_average())
    assert.raises("there are no averages; make it with the option 'ema'",
      function() plain:averaged(print) end)
  end)

  it("changes no bit of the training, and goes on with the same bits", function()
    for _, name in ipairs { "adamw", "muon", "lion" } do
      local folder = support.folder()
      local plain, model = small(), small()
      local other, opt = pf.optim[name](plain), pf.optim[name](model, { ema = 0.9 })
      train(plain, other, 5)
      train(model, opt, 3)
      assert(pf.checkpoint.save(folder, { model = model, optimizer = opt }))
      local saved = assert(pf.checkpoint.load(folder))
      support.remove(folder)
      train(model, opt, 2)
      train(saved.model, saved.optimizer, 2)
      assert.equal(bits(plain), bits(model))
      assert.equal(bits(model), bits(saved.model))
      opt:use_average(true)
      saved.optimizer:use_average(true)
      assert.is_true(bits(model) == bits(saved.model) and bits(model) ~= bits(plain))
    end
  end)
end)

describe("a schedule", function()
  local O = { warmup = 4, steps = 24, peak = 2, floor = 0.5, every = 5, factor = 0.5, cooldown = 8 }
  local function above(share) return 0.5 + 1.5 * share end

  -- The rate at step t, from the end of the warm-up on.
  local FORMULAS = {
    cosine = function(t) return above((1 + math.cos(math.pi * math.min(1, (t - 4) / 20))) / 2) end,
    linear = function(t) return above(1 - math.min(1, (t - 4) / 20)) end,
    constant = function() return 2 end,
    step = function(t) return math.max(0.5, 2 * 0.5 ^ (math.max(0, t - 5) // 5)) end,
    wsd = function(t) return above(1 - math.sqrt(math.max(0, math.min(1, (t - 16) / 8)))) end,
  }

  for _, row in ipairs(pf.schedules()) do
    it("is as its formula has it: " .. row.name, function()
      local options = {}
      for _, option in ipairs(row.options) do
        options[option.name] = O[option.name]
        assert.is_true(#option.doc > 0)
      end
      local rate = pf.schedule[row.name](options)
      for t = 0, 30 do
        local want = t < 4 and 2 * t / 4 or FORMULAS[row.name](t)
        assert.near(want, rate(t), 1e-12, row.name .. " at " .. t)
      end
      options.warmup = nil
      assert.equal(2, pf.schedule[row.name](options)(0))
    end)
  end

  it("falls by a shape of its own at the end, and over a fifth where none is given", function()
    local shapes = { linear = function(x) return 1 - x end,
                     cosine = function(x) return (1 + math.cos(math.pi * x)) / 2 end }
    for shape, share in pairs(shapes) do
      local rate = pf.schedule.wsd { peak = 1, steps = 100, shape = shape }
      assert.equal(1, rate(80))
      for t = 81, 100 do assert.near(share((t - 80) / 20), rate(t), 1e-12) end
    end
  end)

  it("says what is wrong with its options when it is made", function()
    for message, make in pairs {
      ["schedule.wsd: 'shape' must be one of sqrt, linear, cosine, got 'sqr'"]
        = function() pf.schedule.wsd { peak = 1, steps = 9, shape = "sqr" } end,
      ["schedule.linear: option 'steps' is required"] = function()
        pf.schedule.linear { peak = 1 }
      end,
      ["schedule.step: unknown option 'evry' %(did you mean 'every'%?%)"] = function()
        pf.schedule.step { peak = 1, evry = 3 }
      end,
      ["schedule.linear: 'floor' is 2, above 'peak', 1; it is the lowest rate"] = function()
        pf.schedule.linear { peak = 1, steps = 9, floor = 2 }(1)
      end,
      ["adamw: betas says beta1 and beta2; give one or the other"] = function()
        pf.optim.adamw({ w = pf.ones(2) }, { betas = { 0.9, 0.98 }, beta1 = 0.9 })
      end,
      ["schedule.cosine: options must be a table"] = function() pf.schedule.cosine(3) end,
      ["pf.schedule has no 'cosin' %(did you mean 'cosine'%?%)"] = function()
        pf.schedule.cosin {}
      end,
      ["step must be a"] = function() pf.schedule.constant { peak = 1 } "a" end,
    } do
      assert.raises(message, make)
    end
  end)
end)
