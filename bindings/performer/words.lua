-- performer/words.lua: what other libraries call things, and what is meant by it here. Looked up
-- before a near name is suggested: near by letters is often far by sense (min is no sin).
local core = require "performer.core"

local words = {}

-- pf.NAME
words.pf = {
  cat = "it is pf.concat", stack = "reshape the tensors, then pf.concat", mm = "it is pf.matmul",
  bmm = "it is pf.matmul", manual_seed = "it is pf.seed", mse_loss = "it is pf.mean_square",
  no_grad = "gradients are recorded under pf.tape alone", randint = "pf.rand makes numbers, "
    .. "pf.tensor with dtype = 'i32' ids", device = "everything runs on the CPU",
  min = "it is -pf.max(-t)", minimum = "it is -pf.maximum(-a, -b)", dim = "it is t:rank",
  sort = "there is no sorting; t:argmax finds the largest", linspace = "scale what pf.arange makes",
  clamp = "pf.maximum bounds from below", view = "it is pf.reshape",
}

-- t:NAME
words.tensor = {
  view = "it is t:reshape", mm = "it is t:matmul", bmm = "it is t:matmul", dot = "it is t:matmul",
  clone = "it is t:detach", copy = "t:detach makes one; t:copy_(u) takes the numbers of another",
  T = "it is t:transpose", t = "it is t:transpose", dim = "it is t:rank", ndim = "it is t:rank",
  nelement = "it is t:numel", min = "it is -(-t):max()", minimum = "it is -pf.maximum(-a, -b)",
  sort = "there is no sorting; t:argmax finds the largest", topk = "t:argmax finds the largest",
  clamp = "pf.maximum bounds from below", squeeze = "it is t:reshape",
  unsqueeze = "it is t:reshape", expand = "operators repeat dimensions of size 1 by themselves",
  backward = "it is tape:backward(loss)", tolist = "it is t:totable", numpy = "it is t:totable",
  add_ = "t:copy_(t + u) changes it in place", norm = "it is t:square():sum():sqrt()",
  to = "everything runs on the CPU", cpu = "everything runs on the CPU",
  cuda = "everything runs on the CPU", zero_grad = "opt:step clears gradients; here, t:clear_grad",
  mse_loss = "it is t:mean_square",
}

-- m:NAME
words.module = {
  train = "training is said at the call: m(x, { training = true })",
  eval = "a call says nothing of training, or m(x, { training = false })",
  state_dict = "it is m:tensors", named_parameters = "it is m:tensors",
  load_state_dict = "pf.weights.load fills a model, and t:copy_ a tensor of m:tensors",
  save = "it is pf.checkpoint.save(dir, { model = m })", zero_grad = "opt:step clears gradients; "
    .. "here, m:clear_grad",
  to = "everything runs on the CPU", cuda = "everything runs on the CPU", modules = "m:children",
}

words.optimizer = {
  zero_grad = "opt:step clears gradients",
  param_groups = "it is the option groups of the optimizer",
  lr = "it is said to opt:step { lr = ... }",
}

-- pf.nn.NAME
local activation = "activations are methods of tensors (x:relu()), or the option act of nn.mlp"
words.nn = {
  sequential = "it is nn.chain", Sequential = "it is nn.chain", ModuleList = "it is nn.chain",
  relu = activation, ReLU = activation, gelu = activation, GELU = activation,
  transformer = "it is nn.performer", Transformer = "it is nn.performer",
  conv1d = "it is nn.conv", Module = "it is nn.module",
}

-- Names of options.
words.options = {
  depth = "layers", num_layers = "layers", n_layers = "layers", hidden_size = "dim",
  d_model = "dim", embed_dim = "dim", n_heads = "heads", num_heads = "heads", inputs = "from",
  in_features = "from", outputs = "to", out_features = "to", vocab_size = "vocab",
  max_length = "length", seq_len = "length", weight_decay = "decay", learning_rate = "lr",
  layer_norm_eps = "norm_eps", rms_norm_eps = "norm_eps", intermediate_size = "hidden",
  hidden_act = "act", activation = "act", embedding_size = "embedding_dim",
  tie_word_embeddings = "tied",
}

-- Options of a kind of attention or of a pattern: what they are called elsewhere, and on the
-- command line; of several names the one that the kind has.
words.attention = {
  window_size = { "window", "window_blocks" }, attention_window = { "window" },
  bucket_size = { "window" }, local_window = { "window" }, look_ahead = { "ahead" },
  lookahead = { "ahead" }, global_tokens = { "global" }, num_global = { "global", "global_blocks" },
  dilation_rate = { "dilation" }, n_hashes = { "rounds" }, num_hashes = { "rounds" },
  hash_rounds = { "rounds" }, hash_buckets = { "buckets" }, num_buckets = { "buckets" },
  n_buckets = { "buckets" }, num_clusters = { "clusters" }, n_clusters = { "clusters" },
  centroid_rate = { "rate" }, ema_decay = { "rate" }, block_size = { "block", "stride" },
  num_random_blocks = { "random" }, random_blocks = { "random" }, pattern_seed = { "seed" },
  attention_scale = { "scale" }, softmax_scale = { "scale" }, shared_qk = { "tied" },
}

for class in pairs { tensor = true, module = true, optimizer = true } do
  core.set_words("performer." .. class, words[class])
end

return words
