--- performer embed - vectors of sequences: what a trained model makes of each, as the mean over its
-- letters, or a vector for every letter.
local cli = require "kit.cli"
local pf = require "performer"
local sequences = require "kit.sequences"

local ROWS = sequences.rows "FASTA or text"
table.move({
  { "per-token", "flag", nil, "a vector for every letter, instead of their mean" },
  { "layer", "positive", nil, "what stands behind this block (default: behind the last one and the "
    .. "last norm)" },
}, 1, 2, #ROWS + 1, ROWS)

--- Refuses a block that is not there, and models of whose inside nothing is known.
local function check_layer(layer, model)
  if model:type() ~= "performer" then
    cli.fail(1, ("embed: the model is a %s, which gives no states of its inside; a performer does")
      :format(model:type()))
  end
  local blocks = model:options().layers
  if layer and layer > blocks then
    cli.fail(2, ("embed: --layer %d: the model has %d blocks"):format(layer, blocks))
  end
end

--- States of ids first .. last, (n, dim).
local function states(opened, layer, ids, first, last)
  local input = ids:slice(1, first, last):reshape(1, -1)
  local h = opened.model:hidden(input, nil, layer)
  return h:reshape(-1, h:size(-1))
end

--- The rows of h whose ids, from `first` on, are letters, with their positions.
local function letters(ids, first, h, marks)
  local kept, rows = {}, h:totable()
  for i, row in ipairs(rows) do
    if not marks[ids[first + i - 1]] then kept[#kept + 1] = row end
  end
  return kept
end

--- A vector for every letter of a sequence.
local function embed(opened, layer, ids, room, marks)
  local list, all = ids:totable(), {}
  for first = 1, #list, math.min(room, #list) do
    local last = math.min(first + room - 1, #list)
    local part = letters(list, first, states(opened, layer, ids, first, last), marks)
    table.move(part, 1, #part, #all + 1, all)
    collectgarbage()
  end
  return all
end

local function mean(rows)
  local sum = {}
  for i = 1, #rows[1] do sum[i] = 0 end
  for _, row in ipairs(rows) do
    for i, x in ipairs(row) do sum[i] = sum[i] + x end
  end
  for i = 1, #sum do sum[i] = sum[i] / #rows end
  return sum
end

local function line(vector)
  local words = {}
  for i, x in ipairs(vector) do words[i] = ("%.6g"):format(x) end
  return table.concat(words, "\t")
end

local function print_plain(name, rows, per_token)
  if not per_token then return cli.write(cli.plain(name), "\t", line(rows), "\n") end
  for i, row in ipairs(rows) do cli.write(cli.plain(name), "\t", i, "\t", line(row), "\n") end
end

cli.main(function()
  local parser = cli.add(cli.parser("embed", "Vectors of sequences, by a trained model.", {
    "performer embed --checkpoint runs/proteins --data some.fasta --json",
    "performer embed --checkpoint runs/proteins --data one.fasta --per-token --layer 2",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if not options.data then cli.fail(2, "embed: needs --data FILE") end
  local opened = sequences.open_model("embed", options)
  local data = sequences.open_data("embed", options, opened)
  local layer, room = options.layer, opened.model:longest()
  check_layer(layer, opened.model)
  local marks = sequences.marks(opened.tokenizer)
  sequences.each("embed", data, room, function(ids, name)
    local rows = embed(opened, layer, ids, room, marks)
    if #rows == 0 then return end
    local vector = options.per_token and rows or mean(rows)
    if options.json then
      cli.print_json { name = name, vector = vector }
    else
      print_plain(name, vector, options.per_token)
    end
  end)
  if pf.interrupted() then cli.fail(130, "embed: interrupted") end
end)
