--- similarity.lua - what a protein model's attention knows of amino acids: how alike two of them
-- are to it, beside BLOSUM62, which was counted from alignments; where its heads look in one small
-- protein (BPT1_BOVIN); and what it says of variants that somebody measured.
--
--   performer examples/paper/similarity.lua --data train.fasta --blosum BLOSUM62.txt \
--     --map BPT1_BOVIN.fasta --wild BLAT_ECOLX.fasta --variants BLAT_ECOLX.csv
--
-- Data: UniProt sequences; BLOSUM62 as NCBI prints it; P00974 and P62593 of UniProt; a table of
-- measured variants with a column `mutant` (the deep mutational scan of TEM-1, Stiffler et al.
-- 2015). --checkpoint RUN takes a masked model that `performer train --bidirectional
-- --attention relu --conv 0 --ngrams 0` trained, instead of training one here.
local kit = require "kit"
local pf = require "performer"
local png = require "png"
local saved = require "kit.saved"
local svg = require "kit.svg"
local variants = require "kit.variants"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads", batch = "rows a step",
          length = "tokens a row", steps = "training steps", lr = "peak learning rate",
          proteins = "proteins that attention is summed over" },
  smoke = { dim = 16, layers = 2, heads = 2, length = 64, batch = 2, steps = 6, lr = 4e-3,
            proteins = 10 },
  quick = { dim = 64, layers = 4, heads = 4, length = 256, batch = 8, steps = 800, lr = 4e-3,
            proteins = 150 },
  full = { dim = 128, layers = 4, heads = 8, length = 512, batch = 8, steps = 8000, lr = 3e-3,
           proteins = 400 },
}

local LETTERS = "ACDEFGHIKLMNPQRSTVWY"

-- ---- attention ----

--- Queries and keys of block i, (1, H, L, d), as its attention makes them of what comes in; and how
-- it weighs them. Softmax maps estimate the exact weights, which stand for theirs here.
local function queries_and_keys(model, ids, i)
  local blocks
  for _, child in ipairs(model:children()) do
    if child:type() == "chain" then blocks = child end
  end
  local block = blocks:children()[i]
  local x = i == 1 and model:children()[1](ids) or model:hidden(ids, nil, i - 1)
  local attention, conv
  for _, child in ipairs(block:children()) do
    if child:type() == "attention" then attention = child end
    if child:type() == "conv" then conv = child end
  end
  x = block:children()[1](x)
  x = conv and conv(x) or x
  local o = attention:options()
  local heads, d = o.heads, o.head_dim > 0 and o.head_dim or o.dim // o.heads
  local qkv, tensors = attention:children()[1](x), attention:tensors()
  local function side(n)
    local y = qkv:slice(3, 1 + n * heads * d, (n + 1) * heads * d)
    y = y:reshape(1, -1, heads, d):permute(1, 3, 2, 4)
    local norm = tensors[n == 0 and "q_norm" or "k_norm"]
    if norm then y = y:rmsnorm(norm, { eps = 1e-6 }) end
    return o.rotary and y:rotary { halves = true, base = o.rotary_base } or y
  end
  local name = o.kernel and o.kernel.name or "softmax"
  local exact = o.attention == "exact" or name:find "softmax"
  return side(0), side(1), exact and { attention = "exact" } or { kernel = { name = name } }
end

--- The weights of chosen rows of a layer, (H, n, L): never L x L of a long protein.
local function weights(q, k, how, first, last)
  local rows = {}
  for i = first, last do rows[#rows + 1] = i end
  return pf.attention.weights(q, k, { rows = rows, attention = how.attention,
                                      kernel = how.kernel })[1]
end

-- ---- similarity ----

--- One row a position, 1 under its letter: (L, 20); ids are with begin and end.
local function letters_of(ids, tokenizer)
  local column, rows = {}, {}
  for i = 1, #LETTERS do column[tokenizer:encode(LETTERS:sub(i, i)):totable()[1]] = i end
  for at, id in ipairs(ids:totable()) do
    rows[at] = {}
    for i = 1, #LETTERS do rows[at][i] = column[id] == i and 1 or 0 end
  end
  return pf.tensor(rows)
end

--- Attention from each letter to each, summed over proteins: a list over layers and heads of 20 x
-- 20 numbers, each beside what it would be if heads looked everywhere alike (1).
local function from_letter_to_letter(o, model, data, tokenizer)
  local sums, alike
  for n = 1, math.min(o.proteins, data:info("all").documents) do
    local ids = data:document(n, "all")
    if ids:numel() > o.length then ids = ids:slice(1, 1, o.length) end
    local where, L = letters_of(ids, tokenizer), ids:numel()
    local counts = where:sum(1)
    local expected = (counts:reshape(20, 1) * counts:reshape(1, 20)) * (1 / L)
    local list = {}
    for layer = 1, model:options().layers do
      local q, k, how = queries_and_keys(model, ids:reshape(1, L), layer)
      local sum
      for first = 1, L, 64 do
        local last = math.min(first + 63, L)
        local to = weights(q, k, how, first, last):matmul(where)           -- (H, n, 20)
        local part = where:slice(1, first, last):transpose(1, 2):matmul(to) -- (H, 20, 20)
        sum = sum and sum + part or part
      end
      list[layer] = sum
    end
    local all = pf.concat(list, 1)
    sums, alike = sums and sums + all or all, alike and alike + expected or expected
    collectgarbage()
  end
  return (sums / (alike + 1e-6)):totable()
end

--- How alike two letters are: "to one another", the mean attention between them; "by heads", the
-- correlation of what the heads give them; "by heads and letters", of what each head gives them
-- from each letter. Three 20 x 20 tables.
local function similarities(attention)
  local n, tables = #attention, { {}, {}, {} }
  local by_head, by_both = {}, {}
  for a = 1, 20 do
    by_head[a], by_both[a] = {}, {}
    for h = 1, n do
      local sum = 0
      for c = 1, 20 do
        sum = sum + attention[h][c][a]
        table.insert(by_both[a], attention[h][c][a])
      end
      by_head[a][h] = sum / 20
    end
  end
  for a = 1, 20 do
    for i = 1, 3 do tables[i][a] = {} end
    for b = 1, 20 do
      local direct = 0
      for h = 1, n do direct = direct + attention[h][a][b] + attention[h][b][a] end
      tables[1][a][b] = direct / (2 * n)
      tables[2][a][b] = kit.pearson(by_head[a], by_head[b])
      tables[3][a][b] = kit.pearson(by_both[a], by_both[b])
    end
  end
  return tables
end

--- The 190 pairs of two letters, as a list; and the place of a pair among them, the largest first.
local function pairs_of(matrix)
  local list = {}
  for a = 1, 20 do
    for b = a + 1, 20 do list[#list + 1] = matrix[a][b] end
  end
  return list
end

local function place_of(matrix, pair)
  local a, b = LETTERS:find(pair:sub(1, 1)), LETTERS:find(pair:sub(2, 2))
  local place = 1
  for _, value in ipairs(pairs_of(matrix)) do
    if value > matrix[a][b] then place = place + 1 end
  end
  return place
end

--- BLOSUM62 as { letter = { letter = number } }.
local function read_blosum(path)
  local columns, scores = nil, {}
  for line in (path and kit.read(path) or ""):gmatch "[^\n]+" do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = word end
    if not columns and line:sub(1, 1) ~= "#" then
      columns = words
    elseif columns then
      scores[words[1]] = {}
      for i, name in ipairs(columns) do scores[words[1]][name] = tonumber(words[i + 1]) end
    end
  end
  if path then return scores end
  kit.made_up "BLOSUM62"
  for a in LETTERS:gmatch "." do
    scores[a] = {}
    for b in LETTERS:gmatch "." do scores[a][b] = (a:byte() * b:byte()) % 7 - 3 end
  end
  return scores
end

local function blosum_matrix(scores)
  local matrix = {}
  for a = 1, 20 do
    matrix[a] = {}
    for b = 1, 20 do matrix[a][b] = scores[LETTERS:sub(a, a)][LETTERS:sub(b, b)] end
  end
  return matrix
end

-- ---- maps ----

--- Where the heads look in one protein: a picture of layers x heads, and a table of how much of
-- their weight lies near, how far it lies in the mean, and in one place for all.
local function draw_maps(model, ids)
  local L, tiles, rows, near_alike = ids:numel(), {}, {}, 0
  for i = 1, L do near_alike = near_alike + math.min(L, i + 3) - math.max(1, i - 3) + 1 end
  for layer = 1, model:options().layers do
    local q, k, how = queries_and_keys(model, ids:reshape(1, L), layer)
    for head, map in ipairs(weights(q, k, how, 1, L):totable()) do
      local bytes, near, far, column, most = {}, 0, 0, {}, 0
      for _, row in ipairs(map) do
        for _, w in ipairs(row) do most = math.max(most, w) end
      end
      for i, row in ipairs(map) do
        for j, w in ipairs(row) do
          bytes[#bytes + 1] = string.char(255 - math.floor(255 * math.sqrt(math.max(w, 0) / most)))
          if math.abs(i - j) <= 3 then near = near + w / L end
          far, column[j] = far + w * math.abs(i - j) / L, (column[j] or 0) + w / L
        end
      end
      tiles[#tiles + 1] = table.concat(bytes)
      rows[#rows + 1] = { layer, head, ("%.1f"):format(100 * near), ("%.1f"):format(far),
                          ("%.1f"):format(100 * math.max(table.unpack(column))) }
    end
  end
  local heads = model:options().heads
  kit.file("_maps.png", png.encode(png.grid(tiles, L, L, heads)))
  rows[#rows + 1] = { "-", "alike", ("%.1f"):format(100 * near_alike / L ^ 2),
                      ("%.1f"):format((L * L - 1) / (3 * L)), ("%.1f"):format(100 / L) }
  kit.table({ "layer", "head", "weight within 3 %", "mean distance", "weight on one position %" },
            rows)
end

-- ---- variants ----

--- Spearman's correlation of a model's scores, and of BLOSUM62's, with what was measured.
local function zero_shot(o, model, tokenizer, scores)
  local wild = kit.need(pf.data.fasta { path = o.wild, split = "none", min_tokens = 1 })
  local ids = wild:document(1, "all")
  local letters, list, by_blosum, measured = {}, {}, {}, {}
  for i, id in ipairs(ids:totable()) do letters[i - 1] = tokenizer:decode { id } end
  for _, row in ipairs(kit.rows(o.variants)) do
    local value = tonumber(row[o.measured])
    local changes = value and variants.parse(row.mutant, letters, 0)
    if changes then
      list[#list + 1] = { text = row.mutant, changes = changes }
      measured[#list], by_blosum[#list] = value, 0
      for _, c in ipairs(changes) do
        by_blosum[#list] = by_blosum[#list] + scores[c.from][c.to]
      end
    end
  end
  variants.score({ model = model, tokenizer = tokenizer, masked = true, length = 1024 }, ids, list)
  local own = {}
  for i, variant in ipairs(list) do own[i] = variant.score end
  return #list, kit.spearman(own, measured), kit.spearman(by_blosum, measured)
end

-- ---- all of it ----

local function make_model(o, vocab)
  return pf.nn.performer { vocab = vocab, dim = o.dim, layers = o.layers, heads = o.heads,
                           length = o.length, causal = false, kernel = { name = "relu" } }
end

--- The model whose attention is looked at: of a run, or trained here.
local function get_model(o, data)
  if o.checkpoint then
    local model = kit.need(saved.open(o.checkpoint, {})).model
    local m = model:options()
    if model:type() ~= "performer" or m.causal or m.ngrams or m.reversible
      or m.positions ~= "rotary" and m.positions ~= "none" or (m.residual or "pre") ~= "pre"
      or (m.rotary_pairs or "halves") ~= "halves" or (m.embedding_dim or 0) > 0 then
      kit.need(nil, o.checkpoint .. ": is no plain masked model; train one as the head of this "
        .. "file says")
    end
    return model
  end
  local model = make_model(o, data:tokenizer():size())
  kit.train { model = model, label = "masked ReLU", steps = o.steps, lr = o.lr, points = 1,
    loss = kit.language_loss,
    batch = function(step)
      return data:batch { index = step, size = o.batch, masked = true, seed = o.seed }
    end }
  return model
end

kit.main(function()
  local o = kit.options { name = "similarity", sizes = SIZES, takes = "about an hour on two cores",
    about = "Amino acids by a model's attention; its maps; its scores of variants.",
    data = { { "data", "FASTA to train on, and to sum attention over" },
             { "checkpoint", "run folder of a masked model, instead of training one" },
             { "blosum", "BLOSUM62" }, { "map", "FASTA of the protein whose maps are drawn" },
             { "wild", "FASTA of the wild type" }, { "variants", "CSV of measured variants" },
             { "measured", "its column of measurements (default 2500)" } } }
  o.measured = o.measured or "2500"
  local path = o.data or kit.made_up_proteins(60)
  local data = kit.need(pf.data.fasta { path = path, length = o.length })
  local tokenizer, scores = data:tokenizer(), read_blosum(o.blosum)
  local model, untrained = get_model(o, data), make_model(o, tokenizer:size())
  local found = similarities(from_letter_to_letter(o, model, data, tokenizer))
  local blank = similarities(from_letter_to_letter(o, untrained, data, tokenizer))
  local blosum, rows = blosum_matrix(scores), {}
  local known = pairs_of(blosum)
  local correlation, before = {}, {}
  for i, name in ipairs { "to one another", "by heads", "by heads and letters" } do
    correlation[i] = kit.pearson(pairs_of(found[i]), known)
    before[i] = kit.pearson(pairs_of(blank[i]), known)
    rows[i] = { name, ("%.3f"):format(correlation[i]), ("%.3f"):format(before[i]),
                place_of(found[i], "DE"), place_of(found[i], "FY"), place_of(found[i], "IV") }
  end
  rows[4] = { "BLOSUM62 itself", "1.000", "-", place_of(blosum, "DE"), place_of(blosum, "FY"),
              place_of(blosum, "IV") }
  kit.print("Pairs of letters, alike by attention; places among 190 pairs. The post names (D,E) "
    .. "and (F,Y); it prints no correlation.")
  kit.table({ "alike", "correlation with BLOSUM62", "untrained", "(D,E)", "(F,Y)", "(I,V)" }, rows)
  local labels = {}
  for i = 1, 20 do labels[i] = LETTERS:sub(i, i) end
  for i = 1, 20 do found[3][i][i] = 0 end -- each is like itself
  kit.file(".svg", svg.heatmap { title = "Amino acids alike by attention", labels = labels,
                                 rows = found[3] })
  local shown = kit.need(o.map and pf.data.fasta { path = o.map, split = "none", min_tokens = 1 }
    or data)
  local ids, name = shown:document(1, "all")
  kit.print("Attention maps of %s", name)
  draw_maps(model, ids)
  local told = ""
  if o.wild and o.variants then
    local n, own, theirs = zero_shot(o, model, tokenizer, scores)
    local _, nothing = zero_shot(o, untrained, tokenizer, scores)
    kit.print("Zero-shot effects of %d variants, Spearman with column %s: model %.3f, BLOSUM62 "
      .. "%.3f, untrained model %.3f", n, o.measured, own, theirs, nothing)
    told = ("; variants: Spearman %.3f, BLOSUM62 %.3f"):format(own, theirs)
  end
  kit.verdict(correlation[3] > math.max(before[3], 0), "attention and BLOSUM62 correlate with "
    .. "%.3f, an untrained model's with %.3f%s", correlation[3], before[3], told)
end)
