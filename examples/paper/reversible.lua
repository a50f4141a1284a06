--- reversible.lua - FAVOR+ in a reversible stack (as the post has it in the Reformer's code) beside
-- the plain stack of the same size: what each learns in as many steps, and what a training step
-- holds in memory as the stack becomes deeper.
--
--   performer examples/paper/reversible.lua --data book.txt
--
-- Data: any text or FASTA file.
local evaluate = require "kit.evaluate"
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks of the stacks that are trained",
          batch = "rows a step", heads = "attention heads", features = "random projections",
          length = "tokens a row",
          steps = "training steps", lr = "peak learning rate", deepest = "blocks to measure up to",
          limit = "batches that loss is measured on", points = "measurements of a curve" },
  smoke = { dim = 32, layers = 2, heads = 2, features = 16, length = 128, batch = 1, steps = 4,
            lr = 4e-3, deepest = 4, limit = 1, points = 2 },
  quick = { dim = 64, layers = 4, heads = 4, features = 64, length = 512, batch = 2, steps = 250,
            lr = 4e-3, deepest = 24, limit = 6, points = 5 },
  full = { dim = 128, layers = 6, heads = 4, features = 128, length = 1024, batch = 4, steps = 1500,
           lr = 3e-3, deepest = 48, limit = 20, points = 15 },
}

local function make_model(o, data, reversible, layers)
  return pf.nn.performer { vocab = data:tokenizer():size(), dim = o.dim, layers = layers,
    heads = o.heads, causal = true, length = o.length, reversible = reversible,
    kernel = { name = "softmax", features = o.features } }
end

--- Trains a stack: its curve, seconds.
local function train(o, data, reversible)
  pf.seed(o.seed)
  local model, curve = make_model(o, data, reversible, o.layers), {}
  local _, seconds, broken = kit.train { model = model, steps = o.steps, lr = o.lr,
    label = reversible and "reversible" or "plain", points = o.points, loss = kit.language_loss,
    batch = function(step) return data:batch { index = step, size = o.batch, seed = o.seed } end,
    each = function(step)
      local result = evaluate.run(model, data, { batch = o.batch, limit = o.limit })
      curve[#curve + 1] = { step, result.loss }
    end }
  return curve, seconds, broken and math.huge or curve[#curve][2]
end

--- MiB that forward and backward hold beside weights and gradients, and seconds of both, the best
-- of three.
local function held(o, data, reversible, layers)
  local model = make_model(o, data, reversible, layers)
  local batch = data:batch { index = 1, size = o.batch, seed = 1 }
  local function step()
    local tape <close> = pf.tape()
    tape:backward(kit.language_loss(model, batch, 1))
  end
  step() -- now every gradient is there
  collectgarbage()
  local before = pf.memory().live
  pf.reset_peak()
  local best = math.huge
  for _ = 1, 3 do
    local start = pf.clock()
    step()
    best = math.min(best, pf.clock() - start)
  end
  return (pf.memory().peak - before) / 2 ^ 20, best
end

kit.main(function()
  local o = kit.options { name = "reversible", sizes = SIZES, takes = "about an hour on two cores",
    about = "FAVOR+ in a reversible stack, beside the plain one.",
    data = { { "data", "text or FASTA" } } }
  local data = kit.need(pf.data.open { path = o.data or kit.made_up_text(30000),
                                       length = o.length })
  local plain, plain_s, plain_loss = train(o, data, false)
  local other, other_s, other_loss = train(o, data, true)
  kit.print("%d blocks of width %d, %d steps of %d rows of %d", o.layers, o.dim, o.steps, o.batch,
            o.length)
  kit.table({ "stack", "validation, nats a token", "perplexity", "s" }, {
    { "plain", ("%.4f"):format(plain_loss), ("%.3f"):format(math.exp(plain_loss)),
      ("%.1f"):format(plain_s) },
    { "reversible", ("%.4f"):format(other_loss), ("%.3f"):format(math.exp(other_loss)),
      ("%.1f"):format(other_s) } })
  local rows, series, first, last = {}, { { name = "plain", points = {} },
                                          { name = "reversible", points = {} } }, nil, nil
  local layers = math.max(1, o.deepest // 4)
  while layers <= o.deepest do
    local a, a_s = held(o, data, false, layers)
    local b, b_s = held(o, data, true, layers)
    first, last = first or b, b
    rows[#rows + 1] = { layers, ("%.1f"):format(a), ("%.1f"):format(b), ("%.2f"):format(b_s / a_s) }
    table.insert(series[1].points, { layers, a })
    table.insert(series[2].points, { layers, b })
    layers = layers * 2
  end
  kit.print("activations of one training step, MiB (the paper has no figure: \"interoperable with "
    .. "reversible layers\")")
  kit.table({ "blocks", "plain", "reversible", "time of the reversible one" }, rows)
  kit.file(".svg", svg.chart { title = "Activations of a training step", x = "blocks", y = "MiB",
                               series = series })
  kit.file("_curves.svg", svg.chart { title = "FAVOR+, plain and reversible", x = "step",
    y = "validation, nats a token", series = { { name = "plain", points = plain },
                                               { name = "reversible", points = other } } })
  kit.verdict(other_loss <= plain_loss + 0.02 and last <= 1.25 * first,
    "reversible %.4f nats a token, plain %.4f (0.02 more is no loss); four times the blocks hold "
    .. "%.2f times the activations (limit 1.25)", other_loss, plain_loss, last / first)
end)
