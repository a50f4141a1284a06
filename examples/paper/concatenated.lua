--- concatenated.lua - proteins one after the other in rows of 8,192: a whole Performer beside an
-- exact Transformer that is cut until its attention fits into a given memory.
--
--   performer examples/paper/concatenated.lua --data proteins.fasta
--
-- What does not fit is the L x L scores of every head and layer, which an exact Transformer keeps
-- for its gradient: 256 MiB a head at L = 8,192. This engine's exact attention keeps none (it makes
-- them again), so the cut model runs in far less, and pays in time: both are in the table.
-- Data: FASTA, such as UniProt's (Debian's mmseqs2-examples holds 20,000).
local evaluate = require "kit.evaluate"
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks of the Performer", heads = "attention heads",
          length = "tokens a row", steps = "training steps", lr = "peak learning rate",
          gib = "memory for the kept scores, GiB", limit = "rows that accuracy is measured on",
          points = "measurements of a curve" },
  smoke = { dim = 16, layers = 2, heads = 2, length = 512, steps = 4, lr = 4e-3, gib = 0.002,
            limit = 1, points = 2 },
  quick = { dim = 64, layers = 3, heads = 2, length = 8192, steps = 60, lr = 4e-3, gib = 0.5,
            limit = 4, points = 6 },
  full = { dim = 128, layers = 6, heads = 4, length = 8192, steps = 800, lr = 3e-3, gib = 2,
           limit = 40, points = 20 },
}

--- GiB of the scores that one layer keeps.
local function kept(o) return o.heads * o.length ^ 2 * 4 / 2 ^ 30 end

local function make_model(o, vocab, attention, layers)
  return pf.nn.performer { vocab = vocab, dim = o.dim, layers = layers, heads = o.heads,
    length = o.length, causal = true, attention = attention,
    kernel = attention == "favor" and { name = "relu" } or nil }
end

--- A batch whose rows are one sequence: proteins in it are not kept apart.
local function joined(batch)
  batch.documents = nil
  return batch
end

local function accuracy(o, model, data)
  return 100 * evaluate.run(model, {
    info = function(_, split) return data:info(split) end,
    batch = function(_, options) return joined(data:batch(options)) end,
  }, { batch = 1, limit = o.limit }).accuracy
end

local function run(o, data, name, model)
  local curve = {}
  pf.reset_peak()
  local _, seconds, broken = kit.train { model = model, label = name, steps = o.steps, lr = o.lr,
    points = o.points, loss = kit.language_loss,
    batch = function(step)
      return joined(data:batch { index = step, size = 1, seed = o.seed })
    end,
    each = function(step) curve[#curve + 1] = { step, accuracy(o, model, data) } end }
  return { name = name, curve = curve, params = model:count(), peak = pf.memory().peak,
           rate = o.steps * o.length / seconds, accuracy = broken and 0 or curve[#curve][2] }
end

kit.main(function()
  local o = kit.options { name = "concatenated", sizes = SIZES,
    takes = "about an hour on two cores",
    about = "Concatenated proteins, L = 8,192: a Performer, and an exact Transformer that fits.",
    data = { { "data", "FASTA" } } }
  local path = o.data or kit.made_up_proteins(200)
  local data = kit.need(pf.data.fasta { path = path, length = o.length })
  local vocab = data:tokenizer():size()
  local fits = math.max(1, math.min(o.layers, math.floor(o.gib / kept(o))))
  pf.seed(o.seed)
  local favor = run(o, data, ("Performer-ReLU, %d layers"):format(o.layers),
                    make_model(o, vocab, "favor", o.layers))
  pf.seed(o.seed)
  local exact = run(o, data, ("exact, %d of %d layers"):format(fits, o.layers),
                    make_model(o, vocab, "exact", fits))
  local rows, series = {}, {}
  for i, r in ipairs { favor, exact } do
    rows[i] = { r.name, r.params, ("%.2f"):format(r.accuracy), ({ "about 24", "near 19" })[i],
      i == 1 and "-" or ("%.2f (all layers %.2f)"):format(fits * kept(o), o.layers * kept(o)),
      ("%.0f"):format(r.peak / 2 ^ 20), ("%.0f"):format(r.rate) }
    series[i] = { name = r.name, points = r.curve }
  end
  kit.print("rows of %d, %d steps; %g GiB for kept scores", o.length, o.steps, o.gib)
  kit.table({ "model", "parameters", "valid %", "paper, valid %", "scores if kept, GiB",
              "measured peak, MiB", "tokens/s" }, rows)
  kit.file(".svg", svg.chart { title = ("Concatenated proteins, L = %d"):format(o.length),
                               x = "step", y = "validation accuracy, %", series = series })
  kit.verdict(favor.accuracy > exact.accuracy, "the Performer has %.2f %%, the Transformer that "
    .. "fits %.2f %%, at %.1f times its speed", favor.accuracy, exact.accuracy,
    favor.rate / exact.rate)
end)
