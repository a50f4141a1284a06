--- tokens.lua - how a prompt begins, and what may be written behind it.
local tokens = {}

--- The ids of a text, behind a beginning where the tokenizer has one; never none. nil, message: the
-- text can't be written.
function tokens.prompt(tokenizer, text)
  local ids, message = tokenizer:encode(text)
  if not ids then return nil, message end
  ids = ids:totable()
  local begin = tokenizer:special "begin"
  if begin then table.insert(ids, 1, begin) end
  if #ids == 0 then ids[1] = 10 end -- text: begin a line
  return ids
end

--- All tokens but those that stand for nothing in a text.
function tokens.writable(tokenizer)
  local silent, ids = {}, {}
  for _, name in ipairs { "begin", "mask", "pad" } do
    local id = tokenizer:special(name)
    if id then silent[id] = true end
  end
  for id = 0, tokenizer:size() - 1 do
    if not silent[id] then ids[#ids + 1] = id end
  end
  return ids
end

return tokens
