--- long_text.lua - language models of rows of 8,192 bytes, which an exact Transformer does not
-- train on in a small memory: FAVOR+ with one projection for good, with projections drawn anew,
-- regularised (SMREG), ReLU features, and trigonometric features, on one picture. Beside them the
-- exact Transformer, on rows that are cut short, and as many bytes a step.
--
--   performer examples/paper/long_text.lua --data book.txt
--
-- Data: long text, such as whole books (Project Gutenberg; PG-19 is made of them).
local evaluate = require "kit.evaluate"
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads", batch = "rows a step",
          features = "random projections", length = "bytes a row", lr = "peak learning rate",
          steps = "training steps", redraw = "steps between two draws",
          cut = "parts that a row is cut into for the exact Transformer",
          limit = "rows that loss is measured on", points = "measurements of a curve" },
  smoke = { dim = 16, layers = 1, heads = 2, features = 16, length = 256, batch = 1, steps = 4,
            redraw = 2, lr = 4e-3, cut = 4, limit = 2, points = 2 },
  quick = { dim = 64, layers = 2, heads = 4, features = 64, length = 8192, batch = 1, steps = 80,
            redraw = 20, lr = 4e-3, cut = 16, limit = 4, points = 8 },
  full = { dim = 128, layers = 4, heads = 4, features = 128, length = 8192, batch = 1, steps = 1000,
           redraw = 100, lr = 3e-3, cut = 16, limit = 8, points = 20 },
}

--- What is compared, and what the paper's picture says of it (figure 5, right; no numbers).
local CASES = {
  { name = "softmax, no redraw", kernel = { name = "softmax" }, paper = "stays behind" },
  { name = "softmax, redraw", kernel = { name = "softmax" }, redraw = true,
    paper = "as good as exact" },
  { name = "SMREG, redraw", kernel = { name = "softmax_reg" }, redraw = true,
    paper = "learns fastest" },
  { name = "ReLU", kernel = { name = "relu" }, paper = "-" },
  { name = "trigonometric, redraw", kernel = { name = "softmax_trig" }, redraw = true,
    paper = "unstable" },
}

local function make_model(o, case, length)
  local kernel = case.kernel and { name = case.kernel.name }
  if kernel and kernel.name ~= "relu" then kernel.features = o.features end
  if case.redraw then kernel.redraw = o.redraw end
  return pf.nn.performer {
    vocab = pf.tokenizer.byte():size(), dim = o.dim, layers = o.layers, heads = o.heads,
    causal = true, length = length, attention = kernel and "favor" or "exact", kernel = kernel,
  }
end

--- Trains one model on rows of data; { loss, seconds, broken, curve }.
local function run(o, case, data, rows)
  pf.seed(o.seed)
  local model = make_model(o, case, o.length * o.batch // rows)
  local curve = {}
  local function measure()
    return evaluate.run(model, data, { batch = rows, limit = math.ceil(o.limit / o.batch) }).loss
  end
  pf.reset_peak()
  local _, seconds, broken = kit.train { model = model, label = case.name, steps = o.steps,
    lr = o.lr, points = o.points, loss = kit.language_loss,
    batch = function(step) return data:batch { index = step, size = rows, seed = o.seed } end,
    each = function(step) curve[#curve + 1] = { step, measure() } end }
  return { curve = curve, broken = broken, rate = o.steps * o.length * o.batch / seconds,
           peak = pf.memory().peak, loss = broken and math.huge or curve[#curve][2] }
end

local function row_of(case, length, result)
  local loss = result.broken and ("broke down at step %d"):format(result.broken)
    or ("%.4f"):format(result.loss)
  return { case.name, length, loss, result.broken and "-" or ("%.3f"):format(math.exp(result.loss)),
           ("%.0f"):format(result.rate), ("%.0f"):format(result.peak / 2 ^ 20), case.paper or "-" }
end

kit.main(function()
  local o = kit.options { name = "long_text", sizes = SIZES, takes = "about an hour on two cores",
    about = "Rows of 8,192 bytes: FAVOR+ without and with redraw, SMREG, ReLU, trigonometric.",
    data = { { "data", "text" } } }
  local path = o.data or kit.made_up_text(16 * o.length)
  local data = kit.need(pf.data.text { path = path, length = o.length })
  kit.print("%d training bytes, rows of %d, %d steps of %d rows", data:info("train").tokens,
            o.length, o.steps, o.batch)
  local series, rows, best = {}, {}, nil
  for _, case in ipairs(CASES) do
    local result = run(o, case, data, o.batch)
    series[#series + 1] = { name = case.name, points = result.curve, dashed = #series == 4 }
    rows[#rows + 1] = row_of(case, o.length, result)
    if not best or result.loss < best.loss then best = { name = case.name, loss = result.loss } end
  end
  local pairs_loss = math.log(evaluate.baselines(data).pairs)
  local exact = { name = ("exact, rows cut to %d"):format(o.length // o.cut) }
  local short = run(o, exact, data:lay(o.length // o.cut) or data, o.batch * o.cut)
  series[#series + 1] = { name = exact.name, points = short.curve, colour = "#000000" }
  rows[#rows + 1] = row_of(exact, o.length // o.cut, short)
  rows[#rows + 1] = { "counting pairs of bytes", 2, ("%.4f"):format(pairs_loss),
                      ("%.3f"):format(math.exp(pairs_loss)), "-", "-", "-" }
  kit.table({ "attention", "row", "nats a byte", "perplexity", "bytes/s", "peak MiB",
              "the paper's picture" }, rows)
  kit.file(".svg", svg.chart { title = ("Text in rows of %d bytes"):format(o.length), x = "step",
                               y = "validation, nats a byte", series = series })
  kit.verdict(best.loss <= short.loss, "%s has %.4f nats a byte, the exact Transformer on rows of "
    .. "%d bytes %.4f, counting pairs %.4f", best.name, best.loss, o.length // o.cut, short.loss,
    pairs_loss)
end)
