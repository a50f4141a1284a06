--- variants.lua - mutants of a sequence, such as A24C: reading a table of them, and how much better
-- or worse than the wild type a model finds each. A position counts from 1.
local cli = require "kit.cli"
local pf = require "performer"

local variants = {}

-- ---- tables ----

--- One line of a table as its fields; a field may stand in quotes, "" for a quote in it.
local function fields_of(line, separator)
  local fields, at = {}, 1
  repeat
    local stop
    if line:sub(at, at) == '"' then
      local from = at + 1
      repeat
        stop = line:find('"', from, true)
        if not stop then return nil end
        from = stop + 2
      until line:sub(stop + 1, stop + 1) ~= '"'
      fields[#fields + 1] = line:sub(at + 1, stop - 1):gsub('""', '"')
      at = stop + 1
    else
      stop = line:find(separator, at, true) or #line + 1
      fields[#fields + 1], at = line:sub(at, stop - 1), stop
    end
    at = at + 1
  until at > #line + 1
  return fields
end

--- The separator of a table by its first line: the commonest of comma, semicolon and tab.
local function separator_of(line)
  local best, most = ",", 0
  for _, mark in ipairs { ",", ";", "\t" } do
    local _, n = line:gsub(mark, mark)
    if n > most then best, most = mark, n end
  end
  return best
end

--- The rows of a table with a line of names, each { name = text, line = its place in the file },
-- and the names. A byte order mark before the names is none of theirs.
function variants.read_table(path)
  local names, rows, separator, number = nil, {}, nil, 0
  for line in (cli.read(path) .. "\n"):gmatch "([^\n]*)\n" do
    line, number = line:gsub("\r$", ""), number + 1
    separator = separator or separator_of(line)
    local fields = line ~= "" and fields_of(line, separator)
    if fields == nil then
      cli.fail(1, ("%s:%d: a quote that does not end; correct this line"):format(path, number))
    elseif fields and not names then
      names = fields
    elseif fields then
      local row = { line = number }
      for i, name in ipairs(names) do row[name] = fields[i] or "" end
      rows[#rows + 1] = row
    end
  end
  if not names then cli.fail(1, path .. ": the table is empty; give one with a line of names") end
  return rows, names
end

-- ---- what a variant is ----

--- The changes that "A24C" says, or "A24C:D30E", of the wild type's letters: a list of { position,
-- from, to }; nil and what is wrong.
function variants.parse(text, wild, offset)
  local changes, seen = {}, {}
  for word in text:gmatch "[^:;,/%s]+" do
    local from, number, to = word:match "^(%a)(%d+)(%a)$"
    if not from then
      return nil, ("'%s' is no variant such as A24C"):format(word)
    end
    local position = math.tointeger(tonumber(number) + offset)
    local letter = wild[position]
    if not letter then
      return nil, ("%s: position %d lies outside of the wild type's %d letters"):format(word,
        position, #wild)
    end
    if letter ~= from:upper() then
      return nil, ("%s: the wild type has %s at position %d, not %s"):format(word, letter, position,
                                                                           from:upper())
    end
    if seen[position] then return nil, ("%s changes position %d twice"):format(text, position) end
    seen[position] = true
    changes[#changes + 1] = { position = position, from = letter, to = to:upper() }
  end
  if #changes == 0 then return nil, "it says no change" end
  return changes
end

-- ---- what a model makes of them ----

-- Rows that go through the model at once.
local ROWS = 16

local function tensor(rows) return pf.tensor(rows, { dtype = "i32" }) end

--- Calls f(first, last) for slices of 1 .. n.
local function slices(n, f)
  for first = 1, n, ROWS do
    f(first, math.min(first + ROWS - 1, n))
    collectgarbage()
    if pf.interrupted() then cli.fail(130, "score: interrupted") end
  end
end

--- The part of ids (with begin and end) that a row of at most `length` has around positions first
-- .. last, and how many ids stand before it.
local function window(ids, first, last, length)
  if #ids <= length then return ids, 0 end
  local from = (first + last) // 2 - length // 2
  from = math.max(1, math.min(from, #ids - length + 1))
  return table.move(ids, from, from + length - 1, 1, {}), from - 1
end

--- A masked model: the sum over the changes of log p(new) - log p(old) where all positions that
-- the variant changes are hidden (masked marginals). Each set of positions is looked at once.
local function masked(opened, ids, list, place)
  local mask, groups, order = opened.tokenizer:special "mask", {}, {}
  for _, variant in ipairs(list) do
    local places = {}
    for i, change in ipairs(variant.changes) do places[i] = change.position + place end
    table.sort(places)
    local key = table.concat(places, " ")
    if not groups[key] then
      groups[key] = { places = places }
      order[#order + 1] = groups[key]
    end
    table.insert(groups[key], variant)
  end
  slices(#order, function(first, last)
    local rows, before = {}, {}
    for g = first, last do
      local places = order[g].places
      local row, skipped = window(ids, places[1], places[#places], opened.length)
      if places[#places] - skipped > #row or places[1] <= skipped then
        cli.fail(1, ("score: the changes of %s lie further apart than the model's rows of %d are "
          .. "long"):format(order[g][1].text, opened.length))
      end
      row = { table.unpack(row) }
      for _, at in ipairs(places) do row[at - skipped] = mask end
      rows[#rows + 1], before[#before + 1] = row, skipped
    end
    local log_p = opened.model(tensor(rows)):log_softmax(-1)
    for g = first, last do
      local i, at_place = g - first + 1, {}
      for _, at in ipairs(order[g].places) do at_place[at] = log_p[i][at - before[i]]:totable() end
      for _, variant in ipairs(order[g]) do
        local sum = 0
        for _, change in ipairs(variant.changes) do
          local p = at_place[change.position + place]
          sum = sum + p[change.to_id + 1] - p[change.from_id + 1]
        end
        variant.score = sum
      end
    end
  end)
end

--- A causal model: the log-likelihood of the whole variant less that of the wild type.
local function causal(opened, ids, list, place)
  local function likelihoods(rows)
    local input, target = {}, {}
    for i, row in ipairs(rows) do
      input[i] = table.move(row, 1, #row - 1, 1, {})
      target[i] = table.move(row, 2, #row, 1, {})
    end
    local losses = opened.model(tensor(input)):cross_entropy(tensor(target),
                                                             { reduction = "none" })
    return losses:sum(2):totable()
  end
  local wild = likelihoods({ ids })[1]
  slices(#list, function(first, last)
    local rows = {}
    for v = first, last do
      local row = { table.unpack(ids) }
      for _, change in ipairs(list[v].changes) do row[change.position + place] = change.to_id end
      rows[#rows + 1] = row
    end
    for i, loss in ipairs(likelihoods(rows)) do list[first + i - 1].score = wild - loss end
  end)
end

--- Sets `score` of each of a list of variants { text, changes }, by the model; wild: the wild
-- type's ids, with begin and end where the tokenizer has them.
function variants.score(opened, wild, list)
  local ids, tokenizer = wild:totable(), opened.tokenizer
  local place = tokenizer:special "begin" and 1 or 0
  for _, variant in ipairs(list) do
    for _, change in ipairs(variant.changes) do
      change.from_id = ids[change.position + place]
      change.to_id = cli.need(tokenizer:encode(change.to)):totable()[1]
    end
  end
  return (opened.masked and masked or causal)(opened, ids, list, place)
end

return variants
