-- A run that is saved after any of its steps and resumed goes on with the same bits, with all that
-- training has: groups, frozen parameters, averages, schedules, micro-steps, dropout, new draws.
local pf = require "performer"
local support = require "spec.support"

local STEPS, MICRO = 5, 2
local RATE = { cosine = { peak = 0.02, warmup = 2, steps = STEPS },
               linear = { peak = 0.02, warmup = 1, steps = STEPS, floor = 1e-3 },
               constant = { peak = 0.01, warmup = 2 },
               step = { peak = 0.02, every = 2, factor = 0.5 },
               wsd = { peak = 0.02, warmup = 1, steps = STEPS, cooldown = 2 } }

local function batch_of(step, micro)
  local input, target = {}, {}
  for b = 1, 2 do
    input[b], target[b] = {}, {}
    for i = 1, 16 do
      input[b][i] = (step * 5 + micro * 3 + b + i * i) % 11
      target[b][i] = (step + i * b) % 7 == 0 and -1 or (input[b][i] * 3 + 1) % 11
    end
  end
  return { input = pf.tensor(input, { dtype = "i32" }),
           target = pf.tensor(target, { dtype = "i32" }) }
end

--- What trains: {model, optimizer}.
local function fresh(name)
  pf.seed(8)
  local model = pf.nn.performer { vocab = 11, dim = 16, layers = 2, heads = 2, length = 16,
                                  causal = true, dropout = 0.2, kernel = { name = "softmax_plus",
                                  features = 16, redraw = 2 } }
  model:freeze "blocks.1.mlp|norm"
  local groups = { { match = "embedding", lr_scale = 0.5, decay = 0 },
                   { match = "*.attention.*", decay = 0.3 } }
  local optimizer = pf.optim[name](model, { decay = 0.1, ema = 0.8, groups = groups })
  return { model = model, optimizer = optimizer }
end

local function train(run, rate, first, last)
  for step = first, last do
    for micro = 0, MICRO - 1 do
      local tape <close> = pf.tape()
      local loss = run.model:loss(batch_of(step, micro), { training = true, step = step,
                                                           micro = micro })
      tape:backward(loss, 1 / MICRO)
    end
    run.optimizer:step { lr = rate(step), clip = 0.5 }
  end
end

--- Weights, then averages.
local function bits(run)
  local parts = {}
  local function add()
    for name, tensor in pf.sorted(run.model:tensors()) do
      parts[#parts + 1] = name .. tensor:tobytes()
    end
  end
  add()
  run.optimizer:averaged(add)
  return table.concat(parts)
end

describe("a run that goes on", function()
  local schedules = {}
  for _, row in ipairs(pf.schedules()) do schedules[#schedules + 1] = row.name end
  for i, row in ipairs(pf.optimizers()) do
    local schedule = schedules[(i - 1) % #schedules + 1]
    it(("has the bits of one that was not stopped: %s, %s"):format(row.name, schedule), function()
      local rate, whole = pf.schedule[schedule](RATE[schedule]), fresh(row.name)
      train(whole, rate, 1, STEPS)
      local want = bits(whole)
      for stop = 0, STEPS - 1 do
        local folder, run = support.folder(), fresh(row.name)
        train(run, rate, 1, stop)
        assert(pf.checkpoint.save(folder, { model = run.model, optimizer = run.optimizer }))
        pf.seed(99)
        local saved = assert(pf.checkpoint.load(folder))
        train(saved, rate, stop + 1, STEPS)
        assert.is_true(want == bits(saved), "stopped after step " .. stop)
        local into = fresh(row.name) -- and into what is there already
        train(into, rate, 1, 2)
        assert(pf.checkpoint.load(folder, into))
        train(into, rate, stop + 1, STEPS)
        assert.is_true(want == bits(into), "restored after step " .. stop)
        support.remove(folder)
      end
    end)
  end
end)
