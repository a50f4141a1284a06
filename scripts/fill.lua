--- performer fill - lets a masked model fill the gaps of a sequence, each written as "?": the
-- likeliest letters for each with their probabilities.
local cli = require "kit.cli"
local pf = require "performer"
local sequences = require "kit.sequences"

local GAP = "?"

local ROWS = sequences.rows()
table.move({
  { "sequence", "text", nil, "letters, with ? for each one to be filled in" },
  { "data", "file", nil, "FASTA, or a sequence a line, instead; - for the standard input" },
  { "top", "positive", 5, "letters that are told for each gap" },
  { "at-once", "flag", nil, "fill all gaps at once (default: one after the other, the surest "
    .. "first, each seeing those before it)" },
}, 1, 4, #ROWS + 1, ROWS)
cli.place(ROWS, { "checkpoint", "run" }, { "sequence", "sequence" })

--- The sequences that the options give: a list of { name, text }.
local function read_sequences(options)
  if options.sequence then return { { name = "sequence", text = options.sequence } } end
  local list, fasta = {}, false
  for line in cli.read(options.data):gmatch "[^\n]+" do
    line = line:gsub("%s+$", "")
    local name = line:match "^>%s*(%S*)" -- as data have it: what follows only describes
    fasta = fasta or name ~= nil
    if name then
      if name == "" then name = ("record %d"):format(#list + 1) end
      list[#list + 1] = { name = name, text = "" }
    elseif line ~= "" and fasta then
      list[#list].text = list[#list].text .. line
    elseif line ~= "" then
      list[#list + 1] = { name = ("line %d"):format(#list + 1), text = line }
    end
  end
  if #list == 0 then cli.fail(1, ("fill: %s holds no sequence"):format(options.data)) end
  return list
end

--- Ids of a text, with begin and end where there are such, and the places of its gaps in them.
local function read(opened, text)
  local tokenizer, ids, gaps = opened.tokenizer, {}, {}
  ids[1] = tokenizer:special "begin"
  local place = #ids
  local whole = text:gsub("%" .. GAP, opened.name == "protein" and "A" or " ")
  for _, id in ipairs(cli.need(tokenizer:encode(whole)):totable()) do ids[#ids + 1] = id end
  if #ids - place ~= #text then
    cli.fail(1, text:find "%s" and "fill: the sequence has blanks in it; leave them out"
      or "fill: the sequence holds more than letters; a gap is written ?, one for each letter")
  end
  for at in text:gmatch("()%" .. GAP) do
    gaps[#gaps + 1] = at + place
    ids[at + place] = tokenizer:special "mask"
  end
  ids[#ids + 1] = tokenizer:special "end"
  if #ids > opened.model:longest() then
    cli.fail(1, ("fill: the sequence has %d tokens, and the model's learned positions end at %d")
      :format(#ids, opened.model:longest()))
  end
  return ids, gaps, place
end

--- What may stand in a gap: the probabilities of all letters, marks left out, the largest first.
local function letters_of(opened, probabilities, marks)
  local list, total = {}, 0
  for i, p in ipairs(probabilities) do
    if not marks[i - 1] then
      list[#list + 1] = { id = i - 1, letter = opened.tokenizer:decode { i - 1 }, probability = p }
      total = total + p
    end
  end
  for _, entry in ipairs(list) do entry.probability = entry.probability / total end
  table.sort(list, function(a, b)
    return a.probability > b.probability or a.probability == b.probability and a.id < b.id
  end)
  return list
end

--- Fills the gaps of ids in place; the letters of each as they were when it was filled. `name` is
-- for a complaint.
local function fill(opened, ids, gaps, at_once, name)
  local marks, found, open = sequences.marks(opened.tokenizer), {}, { table.unpack(gaps) }
  while #open > 0 do
    local input = pf.tensor({ ids }, { dtype = "i32" })
    local p = opened.model(input):softmax(-1)[1]
    local surest, most
    for i, at in ipairs(open) do
      found[at] = letters_of(opened, p[at]:totable(), marks)
      sequences.check_number("fill", opened.model, found[at][1].probability, name, input)
      if not most or found[at][1].probability > most then
        surest, most = i, found[at][1].probability
      end
    end
    for i = at_once and #open or surest, at_once and 1 or surest, -1 do
      local at = table.remove(open, i)
      ids[at] = found[at][1].id
    end
    collectgarbage()
    if pf.interrupted() then cli.fail(130, "fill: interrupted") end
  end
  return found
end

--- The filled sequence, and for each gap { position, letters = {{letter, probability}, ...} }.
local function answer(opened, options, name, text)
  local ids, gaps, place = read(opened, text)
  local found, told = fill(opened, ids, gaps, options.at_once, name), {}
  for i, at in ipairs(gaps) do
    local letters = {}
    for n = 1, math.min(options.top, #found[at]) do
      letters[n] = { letter = found[at][n].letter, probability = found[at][n].probability }
    end
    told[i] = { position = at - place, letters = letters }
  end
  local filled = table.move(ids, place + 1, place + #text, 1, {})
  return opened.tokenizer:decode(filled), told
end

local function print_plain(name, filled, gaps)
  cli.write(("%s\t%s\n"):format(cli.plain(name), cli.plain(filled)))
  for _, gap in ipairs(gaps) do
    local words = {}
    for i, entry in ipairs(gap.letters) do
      words[i] = ("%s %.3f"):format(cli.plain(entry.letter), entry.probability)
    end
    cli.write(("  %d: %s\n"):format(gap.position, table.concat(words, "  ")))
  end
end

cli.alone("fill", function()
  local parser = cli.add(cli.parser("fill", "Lets a masked model fill gaps.", {
    "performer fill runs/masked 'MKT?YIAKQR?ISFVK'",
    "performer fill runs/masked --data gaps.fasta --top 3 --json",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if (options.sequence == nil) == (options.data == nil) then
    cli.fail(2, "fill: needs --sequence TEXT or --data FILE")
  end
  local opened = sequences.open_model("fill", options)
  if not opened.masked then
    cli.fail(1, ("fill: %s holds a causal model, which goes on writing (performer generate); train "
      .. "one with --bidirectional"):format(options.checkpoint))
  end
  local all = 0
  for _, entry in ipairs(read_sequences(options)) do
    local filled, gaps = answer(opened, options, entry.name, entry.text)
    all = all + #gaps
    if options.json then
      cli.print_json { name = entry.name, text = filled, gaps = pf.json.list(gaps) }
    else
      print_plain(entry.name, filled, gaps)
    end
  end
  if all == 0 then cli.say "fill: there is no gap; write ? for each letter to be filled in" end
end)
