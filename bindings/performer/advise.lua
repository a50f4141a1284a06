-- performer/advise.lua: the error of a kernel told beforehand and measured, what helps when it
-- is too large, and the lengths from which on linear attention is the faster one.
--
-- A softmax kernel estimates exp(x.y), x = scale q and y = scale k, and the relative mean square
-- error of one estimate, (exp(|x + y|^2) - 1) / features for "softmax", is known for every pair.
local core = require "performer.core"
local kernels = require "performer.kernel"
local util = require "performer.util"

local kernel, attention, Kernel = kernels.kernel, kernels.attention, kernels.Kernel
local maps = kernels.maps

--- Does it estimate exp(x.y)?
local function estimates(k)
  return not kernels.is_custom(k) and maps[k:name()].softmax
end

--- The options of kernel k with `changes` laid over them, as a table that a constructor takes. A
--- projection that was given is none any more: another number of rows is another projection.
local function changed(k, changes)
  local config = k:config()
  if config.rows == "given" then config.rows, config.project = nil, nil end
  config.name = config.name or "softmax"
  for name, value in pairs(changes) do config[name] = value end
  return config
end

--- The kernel of such a table.
local function made(config)
  local options = util.copy(config)
  options.name = nil
  return kernel[config.name](options)
end

-- ---- compare ------------------------------------------------------------------------

--- q, k and v as given, or random ones: |x| and |y| about `norm`.
local function inputs(options)
  local q, k, v = options.q, options.k, options.v
  if q or k or v then
    if not (q and k and v) then util.fail("attention.compare: q, k and v go together") end
    util.check_rows("attention.compare", { q = q, k = k, v = v })
    return q:detach(), k:detach(), v:detach()
  end
  local B, H = options.batch or 1, options.heads or 1
  local L, d = options.length or 512, options.dim or 64
  if options.seed then core.seed(options.seed) end
  local scale = (options.norm or 1) * d ^ -0.25
  return core.randn(B, H, L, d) * scale, core.randn(B, H, L, d) * scale, core.randn(B, H, L, d)
end

--- Milliseconds of f and its result.
local function timed(f)
  local began = core.clock()
  local result = f()
  return 1e3 * (core.clock() - began), result
end

--- A head's max|a - b| / max|b| and root mean square of a - b over that of b.
local function distance(a, b, head)
  a, b = a:slice(2, head, head), b:slice(2, head, head)
  local gap = a - b
  local function rms(t) return math.sqrt((t * t):mean():item()) end
  return gap:abs():max():item() / b:abs():max():item(), rms(gap) / rms(b)
end

--- What one head's survey says, by the names that users read.
local function add_survey(head, s)
  head.query, head.key, head.sum, head.pairs = s.query, s.key, s.sum, s.pairs
  head.predicted_rel_mse, head.coupled_rel_mse = s.mean.rel_mse, s.mean.coupled_rel_mse
  head.median_rel_mse = s.middle.coupled_rel_mse
  head.predicted_bias = s.mean.bias
  head.measured_rel_mse, head.measured_deviation = s.measured_rel_mse, s.measured_deviation
  head.bias, head.bias_sigma = s.bias, s.bias_sigma
end

local averaged = { "query", "key", "sum", "predicted_rel_mse", "coupled_rel_mse",
  "median_rel_mse", "measured_rel_mse", "rms_error" }

--- All heads in one: means, the largest error, and the bias that is most standard errors off.
local function summarise(report)
  for _, name in ipairs(averaged) do
    local sum = 0
    for _, head in ipairs(report.heads) do sum = sum and head[name] and sum + head[name] end
    report[name] = sum and sum / #report.heads
  end
  report.error = 0
  for _, head in ipairs(report.heads) do
    report.error = math.max(report.error, head.error)
    if head.bias_sigma and math.abs(head.bias_sigma) >= math.abs(report.bias_sigma or 0) then
      report.bias_sigma = head.bias_sigma
    end
  end
end

local function number(value)
  return value and ("%.3g"):format(value) or "-"
end

--- Rows of texts as lines with aligned columns.
local function lines_of(rows)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for r, row in ipairs(rows) do
    local parts = {}
    for i, text in ipairs(row) do parts[i] = text .. (" "):rep(widths[i] - #text) end
    lines[r] = (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  return table.concat(lines, "\n")
end

local report_meta = { __name = "report", __tostring = function(report)
  local rows = { { "head", "|x|^2", "|y|^2", "|x+y|^2", "predicted", "coupled", "measured",
    "bias/sigma", "output error" } }
  for i, h in ipairs(report.heads) do
    rows[i + 1] = { tostring(i), number(h.query), number(h.key), number(h.sum),
      number(h.predicted_rel_mse), number(h.coupled_rel_mse), number(h.measured_rel_mse),
      number(h.bias_sigma), number(h.error) }
  end
  return ("%s\n%.3g ms, exact attention %.3g ms"):format(lines_of(rows), report.ms,
    report.exact_ms)
end }

--- A kernel against exact attention, a head at a time. options: q, k, v, or length (512), dim
--- (64), heads (1), batch (1), norm (|x| and |y|, 1) and seed of random ones; causal; draws (32)
--- of the projection to measure with; rows (32) queries and keys that are paired.
function attention.compare(chosen, options)
  options = util.check_options(options, { "q", "k", "v", "length", "dim", "heads", "batch",
    "seed", "norm", "causal", "draws", "rows" }, "attention.compare")
  util.check_numbers(options, { "length", "dim", "heads", "batch", "seed", "norm", "draws",
    "rows" }, "attention.compare")
  chosen = kernels.as_kernel(chosen, "attention.compare")
  local q, k, v = inputs(options)
  local causal = options.causal or false
  chosen:projection(q:size(4), q:size(2)) -- drawing it is no part of the time
  local report = { heads = {} }
  local out, judge
  report.ms, out = timed(function()
    return attention.favor(q, k, v, { kernel = chosen, causal = causal })
  end)
  local settings = estimates(chosen) and chosen:settings(q:size(4))
  report.exact_ms, judge = timed(function()
    -- exp(x.y) is exp(scale^2 q.k)
    return attention.exact(q, k, v, { causal = causal,
      scale = settings and settings.scale ^ 2 or nil })
  end)
  local surveys = settings and core.survey_kernel(chosen, q, k, { causal = causal,
    draws = options.draws or 32, rows = options.rows }) or {}
  for i = 1, q:size(2) do
    local head = { head = i }
    head.error, head.rms_error = distance(out, judge, i)
    if surveys[i] then add_survey(head, surveys[i]) end
    report.heads[i] = head
  end
  summarise(report)
  return setmetatable(report, report_meta)
end

-- ---- advise -------------------------------------------------------------------------

local LIMIT = 1024      -- feature columns that advice stays within, if not told otherwise
local LAYER_NORM = 2    -- |x|^2 of rows that an attention layer's qk_norm starts with
local MOST = 2 ^ 18     -- features that are no longer counted
local HOPELESS = 100    -- relative mean square error of the median pair

--- Mean predicted relative mean square error over heads and pairs.
local function predict(task, k)
  local sum, middle = 0, 0
  local heads = core.survey_kernel(k, task.q, task.k,
    { causal = task.causal, rows = task.rows })
  for _, head in ipairs(heads) do
    sum, middle = sum + head.mean.coupled_rel_mse, middle + head.middle.coupled_rel_mse
  end
  return sum / #heads, middle / #heads
end

--- The fewest features, in steps of 16, that bring the error to the tolerance, and the error
--- there; true after them when no reasonable number does.
local function features_for(task, config)
  local fine = task.tolerance ^ 2
  local mse = predict(task, made(config))
  if config.features * mse / fine > MOST then return config.features, mse, true end
  config = util.copy(config)
  local features = 0
  for _ = 1, 12 do
    -- The error is about C / features, a little less where rows are coupled.
    local need = math.ceil(config.features * mse / fine / 16) * 16
    features = math.max(need, features + 16)
    config.features = features
    mse = predict(task, made(config))
    if mse <= fine then return features, mse end
  end
  return features, mse, true
end

--- The maps that may be advised: positive and unbiased ones, and the kernel's own.
local function advisable(task)
  local own = task.kernel:name()
  local list = { own }
  for name, map in util.sorted(maps) do
    if map.softmax and map.positive and not map.regular and name ~= own then
      list[#list + 1] = name
    end
  end
  return list
end

--- Options of another map with the same rows, scale and size; tilted maps are fitted to the data.
local function config_for(task, name)
  local own = changed(task.kernel, { features = task.features })
  local config = { name = name, head_dim = task.head_dim, scale = task.scale,
                   features = task.features, rows = own.rows }
  if name == own.name then config = own end
  if maps[name].tilted then
    config = changed(made(config):fit(task.q, task.k), { features = task.features })
  end
  return config
end

--- A candidate: what to change, and the error that theory tells for it.
local function candidate(task, config, features, mse, beyond)
  local columns = features * maps[config.name].width
  return { map = config.name, features = features, columns = columns, tilt = config.tilt,
           scale = config.scale or task.scale, predicted_rel_mse = mse,
           predicted_error = math.sqrt(mse),
           meets = mse <= task.tolerance ^ 2 and columns <= task.limit and not beyond }
end

--- Every map at the features that it needs.
local function same_function(task, list)
  for _, name in ipairs(advisable(task)) do
    local config = config_for(task, name)
    local entry = candidate(task, config, features_for(task, config))
    entry.change = "map and features"
    list[#list + 1] = entry
  end
end

--- The largest factor in (0, 1] for which error(factor) is within the tolerance.
local function largest_factor(task, error)
  local low, high = 0, 1
  for _ = 1, 30 do
    local middle = (low + high) / 2
    if error(middle) <= task.tolerance ^ 2 then low = middle else high = middle end
  end
  return low
end

--- The map of least error at the most features that the limit allows, as options.
local function strongest(task)
  local best, least
  for _, name in ipairs(advisable(task)) do
    local config = config_for(task, name)
    config.features = math.max(1, task.limit // maps[name].width)
    local mse = predict(task, made(config))
    if not least or mse < least then best, least = config, mse end
  end
  return best
end

--- Shorter queries and keys: attention with softer weights, for a model that trains with them.
local function smaller_scale(task, list)
  local config = strongest(task)
  local own = config.scale or task.scale
  local factor = largest_factor(task, function(c)
    config.scale = c * own
    return predict(task, made(config))
  end)
  config.scale = factor * own
  local mse = predict(task, made(config))
  local entry = candidate(task, config, config.features, mse)
  entry.change, entry.factor = ("scale times %.3g"):format(factor), factor
  list[#list + 1] = entry
end

--- Rows of length 1 in the place of each.
local function unit_rows(t)
  local d = t:size(4)
  return t:rmsnorm(core.full({ d }, d ^ -0.5), { eps = 1e-12 })
end

--- Normed queries and keys, |x|^2 = 2 as a layer's qk_norm starts.
local function normed(task, list)
  local other = setmetatable({ q = unit_rows(task.q), k = unit_rows(task.k) }, { __index = task })
  other.scale = LAYER_NORM ^ 0.5
  for _, name in ipairs(advisable(task)) do
    local config = config_for(other, name)
    config.scale = other.scale
    local features, mse, beyond = features_for(other, config)
    local entry = candidate(task, config, features, mse, beyond)
    entry.change, entry.qk_norm, entry.scale = "qk_norm", true, nil
    list[#list + 1] = entry
  end
end

--- The first kind of change that meets the tolerance, at the fewest columns.
local function choose(list)
  local best
  for _, entry in ipairs(list) do
    if entry.meets and (not best or entry.change == best.change and
        entry.columns < best.columns) then
      best = entry
    end
  end
  return best
end

local Advice = {}

--- The kernel that is advised, for the same heads.
function Advice:kernel()
  if not self.features then util.fail("advice: there is none but relu: pf.kernel.relu{}") end
  local options = util.copy(self.base)
  options.features, options.scale = self.features, self.scale
  if maps[self.map].tilted then options.tilt = self.tilt end
  return kernel[self.map](options)
end

local function candidate_row(entry)
  return { entry.change, entry.map, entry.features and ("%d"):format(entry.features) or "-",
    number(entry.scale), entry.predicted_error and number(entry.predicted_error) or "no estimate",
    entry.meets and "yes" or "no" }
end

local advice_meta = { __name = "advice", __index = Advice, __tostring = function(advice)
  local rows = { { "change", "map", "features", "scale", "error", "meets" } }
  rows[2] = candidate_row(advice.current)
  for _, entry in ipairs(advice.candidates) do rows[#rows + 1] = candidate_row(entry) end
  local head = ("|x|^2 %.3g, |y|^2 %.3g, |x+y|^2 %.3g (largest %.3g); a weight may be off by %g, "
    .. "root mean square"):format(advice.query, advice.key, advice.sum, advice.largest,
    advice.tolerance)
  local tail = ("advised: %s, %d features%s%s"):format(advice.map, advice.features,
    advice.qk_norm and ", qk_norm" or "",
    advice.scale and (", scale %.4g"):format(advice.scale) or "")
  if advice.hopeless then
    tail = "The estimate as it is says nothing of softmax attention.\n" .. tail
  end
  return head .. "\n" .. lines_of(rows) .. "\n" .. tail
end }

--- What the queries and keys are, over all heads.
local function describe_rows(task, advice)
  local heads = core.survey_kernel(task.kernel, task.q, task.k,
    { causal = task.causal, rows = task.rows })
  advice.query, advice.key, advice.sum, advice.largest = 0, 0, 0, 0
  for _, head in ipairs(heads) do
    for _, name in ipairs { "query", "key", "sum" } do
      advice[name] = advice[name] + head[name] / #heads
    end
    advice.largest = math.max(advice.largest, head.largest)
  end
end

local function new_task(k, q, k_rows, options)
  local head_dim = q:size(4)
  local settings = k:settings(head_dim)
  return { kernel = k, q = q:detach(), k = k_rows:detach(), head_dim = head_dim,
           features = settings.features, scale = settings.scale, causal = options.causal or false,
           rows = options.rows, tolerance = options.tolerance or 0.1,
           limit = options.limit or LIMIT }
end

--- What to change so that an estimated weight of these queries and keys, (B, H, L, d), is off by
--- at most `tolerance` (0.1), root mean square, relative. options: tolerance, causal, rows (32)
--- that are paired, limit (1024) of feature columns.
function Kernel:advise(q, k, options)
  options = util.check_options(options, { "tolerance", "causal", "rows", "limit" }, "advise")
  if not estimates(self) then
    util.fail("advise: a %s kernel estimates no softmax, so there is no error to advise on",
      self:name())
  end
  util.check_rows("advise", { q = q, k = k })
  if k == nil then util.fail("advise: queries and keys are needed") end
  local task = new_task(self, q, k, options)
  if not (type(task.tolerance) == "number" and task.tolerance > 0) then
    util.fail("advise: tolerance must be more than 0, got %s", tostring(task.tolerance))
  end
  local own, middle = predict(task, self)
  local list = {}
  same_function(task, list)
  if not choose(list) then
    normed(task, list)
    smaller_scale(task, list)
    list[#list + 1] = { change = "another attention", map = "relu", meets = false }
  end
  local advice = util.copy(choose(list) or list[1])
  advice.candidates, advice.tolerance, advice.limit = list, task.tolerance, task.limit
  advice.hopeless = middle >= HOPELESS
  advice.current = candidate(task, changed(self, { features = task.features }), task.features, own)
  advice.current.change = "as it is"
  advice.base = { head_dim = task.head_dim }
  local words = changed(self, {})
  for _, name in ipairs { "seed", "layer", "redraw", "rows", "per_head" } do
    advice.base[name] = words[name]
  end
  describe_rows(task, advice)
  return setmetatable(advice, advice_meta)
end

--- Theory for one pair: {rel_mse, coupled_rel_mse, bias} at |x + y|^2 = sum and, where the map
--- asks for it (softmax_trig), |x - y|^2 = difference.
function Kernel:predict(sum, difference, head_dim)
  if not estimates(self) then
    util.fail("predict: a %s kernel estimates no softmax", self:name())
  end
  head_dim = head_dim or self:config().head_dim
  if not head_dim then util.fail("predict: head_dim is needed, here or in the kernel") end
  return core.predict_kernel(self, head_dim, sum, difference or sum)
end

-- ---- exact or linear ----------------------------------------------------------------

--- The length from which on linear attention is faster, forward and backward, for {head_dim,
--- features (columns), causal}; without a shape, the table that it is read from.
function attention.crossover(shape)
  if shape == nil then return core.crossover_table() end
  util.check_options(shape, { "head_dim", "features", "causal" }, "attention.crossover")
  return core.crossover_length(shape.head_dim or 64, shape.features or 256, shape.causal or false)
end

--- Takes the table of a file that `performer bench crossover --out FILE` wrote (or such a table;
--- nil: the built-in one) for what is built from now on; true, or nil, message, code.
function attention.use_crossover(source)
  if type(source) ~= "string" then return core.use_crossover(source) end
  core.check_text(source, "use_crossover", "the path")
  local text, message, status = core.file_read(source)
  if not text then return nil, message, status end
  local found, why, code = core.json.decode(text)
  if type(found) == "table" then found, why, code = core.use_crossover(found) end
  if found == true then return true end
  return nil, ("%s: %s"):format(source, why or "holds no table"), code or "PF_EFORMAT"
end

-- ---- what a model saw ---------------------------------------------------------------

local Module = core.methods("performer.module")

local lines_meta = { __name = "attention report", __tostring = function(lines)
  local rows = { { "layer", "head", "|x|^2", "|y|^2", "|x+y|^2", "predicted" } }
  for i, line in ipairs(lines) do
    rows[i + 1] = { line.layer, tostring(line.head), number(line.query), number(line.key),
      number(line.sum), number(line.predicted_rel_mse) }
  end
  return lines_of(rows)
end }

--- A line for every head of softmax attention that a training step has looked at: {layer, head,
--- map, features, step, query, key, sum, median, predicted_rel_mse, median_rel_mse}.
function Module:attention_report()
  local lines = core.attention_lines(self)
  for _, line in ipairs(lines) do
    line.predicted_rel_mse, line.median_rel_mse = line.mean.coupled_rel_mse,
      line.middle.coupled_rel_mse
    line.mean, line.middle = nil, nil
  end
  return setmetatable(lines, lines_meta)
end

--- Layers of a report where the estimate is hopeless: half of the heads or more have a median
--- pair whose squared error is HOPELESS times its weight. The worst first: {layer, sum,
--- median_rel_mse, features, map}.
local function hopeless(lines)
  local layers, order = {}, {}
  for _, line in ipairs(lines) do
    local layer = layers[line.layer]
    if not layer then
      layer = { layer = line.layer, map = line.map, features = line.features, heads = 0, bad = 0,
                sum = 0, median_rel_mse = 0 }
      layers[line.layer], order[#order + 1] = layer, layer
    end
    layer.heads, layer.sum = layer.heads + 1, math.max(layer.sum, line.median)
    layer.median_rel_mse = math.max(layer.median_rel_mse, line.median_rel_mse)
    if line.median_rel_mse >= HOPELESS then layer.bad = layer.bad + 1 end
  end
  local found = {}
  for _, layer in ipairs(order) do
    if 2 * layer.bad >= layer.heads then found[#found + 1] = layer end
  end
  table.sort(found, function(a, b) return a.median_rel_mse > b.median_rel_mse end)
  return found
end

return { hopeless = hopeless }
