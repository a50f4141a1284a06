--- performer generate - lets a trained causal model write, one token at a time, in constant
-- memory.
local pf = require "performer"
local cli = require "performer.cli"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "prompt", "text", "", "what to go on from" },
  { "tokens", "positive", 200, "tokens to write at most" },
  { "temperature", "number", 1, "0: always the likeliest token" },
  { "top-k", "whole", 0, "sample among the k likeliest (0: all)" },
  { "top-p", "number", 1, "sample among the likeliest that hold this probability" },
  { "seed", "whole", 1, "of the sampling" },
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "json", "flag", nil, "one JSON object on stdout" },
}

local function main()
  local parser = cli.add(cli.parser("generate", "Lets a trained model write.", {
    "performer generate --checkpoint runs/book --prompt 'ROMEO:' --tokens 300",
    "performer generate --checkpoint runs/proteins --temperature 0.8",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if not options.checkpoint then cli.fail(2, "generate: needs --checkpoint FOLDER") end
  if options.top_p > 1 then cli.fail(2, "generate: --top-p must lie between 0 and 1") end
  pf.open { threads = options.threads }
  local saved = cli.need(pf.checkpoint.load(options.checkpoint, { optimizer = false }))
  local tokenizer = pf.tokenizer[saved.tokenizer or "byte"]()
  local finish = tokenizer:special "end"
  local prompt = cli.need(tokenizer:encode(options.prompt)):totable()
  local first = tokenizer:special "begin"
  if first then table.insert(prompt, 1, first) end
  if #prompt == 0 then prompt[1] = 10 end -- text: begin a line
  local stream = saved.model:stream { batch = 1 }
  stream:feed(prompt)
  local written, start = {}, pf.clock()
  local sampling = { temperature = options.temperature, top_k = options.top_k,
                     top_p = options.top_p, seed = options.seed }
  if not options.json then io.stdout:write(options.prompt) end
  local id = stream:sample(sampling)
  while #written < options.tokens and id ~= finish and not pf.interrupted() do
    written[#written + 1] = id
    if not options.json then
      io.stdout:write(tokenizer:decode { id })
      io.stdout:flush()
    end
    if #written < options.tokens then id = stream:next(id, sampling) end
  end
  local seconds = pf.clock() - start
  local text = options.prompt .. tokenizer:decode(written)
  if options.json then
    print(pf.json.encode { text = text, tokens = #written, state_bytes = stream:bytes(),
                           tokens_per_s = #written / math.max(seconds, 1e-9) })
  else
    io.stdout:write("\n")
    io.stderr:write(("%d tokens, %.0f tokens/s, state %d bytes\n"):format(
      #written, #written / math.max(seconds, 1e-9), stream:bytes()))
  end
end

main()
