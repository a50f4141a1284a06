--- performer generate - lets a trained causal model write, one token at a time, in constant
-- memory.
local pf = require "performer"
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local saved = require "kit.saved"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "prompt", "text", "", "what to go on from" },
  { "tokens", "positive", 200, "tokens to write at most" },
  { "temperature", "number", 1, "0: always the likeliest token" },
  { "top-k", "whole", 0, "sample among the k likeliest (0: all)" },
  { "top-p", "number", 1, "sample among the likeliest that hold this probability" },
  { "seed", "whole", 1, "of the sampling; the next sample has the next one" },
  { "count", "positive", 1, "samples, one after the other" },
  { "fasta", "flag", nil, "records of FASTA: proteins, each with its prompt" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  saved.AVERAGE,
  data_options.TOKENIZER,
  { "vocabulary", "file", nil, "llama2.c's tokenizer.bin, for a model that was converted from "
    .. "there" },
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "json", "flag", nil, "one JSON object on stdout" },
}

local function check(options)
  if not options.checkpoint then cli.fail(2, "generate: needs --checkpoint FOLDER") end
  if options.fasta and options.json then
    cli.fail(2, "generate: give --fasta or --json, not both")
  end
  if options.top_p > 1 or options.top_p == 0 then
    cli.fail(2, "generate: --top-p must be above 0 and at most 1")
  end
end

--- The tokenizer of --vocabulary, which must have as many tokens as the model knows.
local function open_vocabulary(options, model)
  local tokenizer = cli.need(pf.tokenizer.llama2c(options.vocabulary))
  local vocab = model:options().vocab or tokenizer:size()
  if vocab ~= tokenizer:size() then
    cli.fail(1, ("generate: %s has %d tokens, and %s knows %d: give the vocabulary that it was "
      .. "trained with"):format(options.vocabulary, tokenizer:size(), options.checkpoint, vocab))
  end
  return tokenizer
end

local function open_model(options)
  local opened = cli.need(saved.open(options.checkpoint, {
    script = options.model, average = options.average ~= false }))
  if saved.is_masked(opened) then
    cli.fail(1, ("generate: %s holds a bidirectional model, which fills gaps but can't go on "
      .. "writing; train one without --bidirectional"):format(options.checkpoint))
  end
  if options.vocabulary then return opened.model, open_vocabulary(options, opened.model) end
  local name = data_options.tokenizer_name("generate", saved.tokenizer_name(opened), options)
  return opened.model, pf.tokenizer[name]()
end

--- The prompt's ids, and a beginning where the tokenizer has one.
local function read_prompt(options, tokenizer)
  local prompt = cli.need(tokenizer:encode(options.prompt)):totable()
  local begin = tokenizer:special "begin"
  if begin then table.insert(prompt, 1, begin) end
  if #prompt == 0 then prompt[1] = 10 end -- text: begin a line
  return prompt
end

--- All tokens but those that stand for nothing in a text.
local function writable(tokenizer)
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

--- How many tokens to write: a table of learned positions may end before.
local function fit_tokens(options, model, prompt)
  local room = model:longest()
  local most = room - #prompt + 1 -- the last one is not read
  if most < 1 then
    cli.fail(1, ("generate: the prompt has %d tokens, and the model's learned positions end at %d; "
      .. "give a shorter one"):format(#prompt, room))
  end
  if options.tokens <= most then return end
  cli.say("generate: %d tokens at most: the model's learned positions end at %d", most, room)
  options.tokens = most
end

--- The first token; of a record without a prompt it is no end, for a record holds something.
local function first_of(stream, options, sampling, tokenizer)
  local id, finish = stream:sample(sampling), tokenizer:special "end"
  if not options.fasta or options.prompt ~= "" or id ~= finish then return id end
  local ids, letters = writable(tokenizer), {}
  for _, one in ipairs(ids) do
    if one ~= finish then letters[#letters + 1] = one end
  end
  stream:allow(letters)
  id = stream:sample(sampling)
  stream:allow(ids)
  return id
end

--- Samples until the end; `each` gets every token. Returns the tokens.
local function write(stream, options, seed, tokenizer, each)
  local sampling = { temperature = options.temperature, top_k = options.top_k,
                     top_p = options.top_p, seed = seed }
  local written, finish = {}, tokenizer:special "end"
  local id = first_of(stream, options, sampling, tokenizer)
  while #written < options.tokens and id ~= finish and not pf.interrupted() do
    written[#written + 1] = id
    each(id)
    if #written < options.tokens then id = stream:next(id, sampling) end
  end
  return written
end

--- A sequence as a record of FASTA, in lines of 60 letters.
local function record(n, seed, text)
  local lines = { (">sample_%d seed=%d length=%d"):format(n, seed, #text) }
  for first = 1, #text, 60 do lines[#lines + 1] = text:sub(first, first + 59) end
  return table.concat(lines, "\n") .. "\n"
end

--- Sample n from a stream that has read the prompt.
local function sample(options, n, stream, tokenizer)
  local plain, seed = not options.json and not options.fasta, options.seed + n - 1
  if plain then cli.write(options.prompt) end
  local start = pf.clock()
  local written = write(stream, options, seed, tokenizer, function(id)
    if plain then cli.write(tokenizer:decode { id }) end
  end)
  local rate = #written / math.max(pf.clock() - start, 1e-9)
  local text = options.prompt .. tokenizer:decode(written)
  if options.json then
    cli.print_json { text = text, tokens = #written, state_bytes = stream:bytes(),
                     tokens_per_s = rate }
  elseif options.fasta then
    cli.write(record(n, seed, text:upper()))
  else
    cli.write "\n"
    cli.say("%d tokens, %.0f tokens/s, state %d bytes", #written, rate, stream:bytes())
  end
  if pf.interrupted() then cli.fail(130, "generate: interrupted") end
end

local function main()
  local parser = cli.add(cli.parser("generate", "Lets a trained model write.", {
    "performer generate --checkpoint runs/book --prompt 'ROMEO:' --tokens 300",
    "performer generate --checkpoint runs/proteins --temperature 0.8",
    "performer generate --checkpoint runs/proteins --count 100 --fasta > samples.fasta",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  check(options)
  cli.try(2, pf.open, { threads = options.threads })
  local model, tokenizer = open_model(options)
  if options.fasta and not tokenizer:special "end" then
    cli.fail(1, "generate: --fasta is for proteins, and the model writes bytes; leave it out")
  end
  local prompt = read_prompt(options, tokenizer)
  fit_tokens(options, model, prompt)
  local begun = model:stream { batch = 1 }
  begun:feed(prompt)
  begun:allow(writable(tokenizer))
  for n = 1, options.count do
    sample(options, n, n < options.count and begun:fork() or begun, tokenizer)
  end
end

cli.main(main)
