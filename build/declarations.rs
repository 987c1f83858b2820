//! Reads what kernels/ declares: the kernels of a `.cu` file with their parameters, and the constants of geometry.h. The one parser
//! that both build scripts share: the program's, which writes launchers, and the simulator's, which writes trampolines.

/// A kernel as its `.cu` file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The function's name, which is also its symbol in the cubin.
    pub name: String,
    /// The constant of geometry.h in its `__launch_bounds__`: threads of a block.
    pub threads: String,
    /// Its parameters in order.
    pub params: Vec<Param>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its C type with single spaces and the star attached: `const act*`.
    pub ty: String,
}

const OPENING: &str = "extern \"C\" __global__ void __launch_bounds__(";

/// The kernels of `text`, which is kernels/`stem`.cu. Errors: a declaration of another form, named.
pub fn parse(stem: &str, text: &str) -> Result<Vec<Kernel>, String> {
    let text: String = text.lines().map(|line| line.split("//").next().unwrap_or("").to_string() + "\n").collect();
    if text.matches("__global__").count() != text.matches(OPENING).count() {
        return Err(format!("kernels/{stem}.cu: every kernel has to be declared as `{OPENING}THREADS[, BLOCKS]) name(...)`"));
    }
    text.split(OPENING).skip(1).map(|rest| kernel(rest).map_err(|what| format!("kernels/{stem}.cu: {what}"))).collect()
}

/// One kernel, from what follows [`OPENING`].
fn kernel(rest: &str) -> Result<Kernel, String> {
    let head = rest.split('{').next().unwrap_or_default();
    let shown =
        || format!("`{}` is not `THREADS) name(type parameter, ...) {{`", head.split_whitespace().collect::<Vec<_>>().join(" "));
    let (threads, head) = head.split_once(')').ok_or_else(shown)?;
    let (name, params) = head.split_once('(').ok_or_else(shown)?;
    let (params, after) = params.rsplit_once(')').ok_or_else(shown)?;
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // `THREADS, 1`: the second number is the blocks of a multiprocessor that registers are to be kept for.
    let threads = threads.split_once(',').map_or(threads, |(threads, _)| threads);
    let (threads, name) = (threads.trim(), name.trim());
    if !is_name(name) || !is_name(threads) || !after.trim().is_empty() {
        return Err(shown());
    }
    let params = params.split(',').map(|param| {
        let param = param.split_whitespace().collect::<Vec<_>>().join(" ");
        let at = param.rfind([' ', '*']).ok_or_else(|| format!("{name}: `{param}` is not a type and a name"))?;
        let ty = param[..=at].trim().replace(" *", "*");
        Ok(Param { name: param[at + 1..].to_string(), ty })
    });
    Ok(Kernel { name: name.to_string(), threads: threads.to_string(), params: params.collect::<Result<_, String>>()? })
}

/// Whether kernels/`stem`.cu exists for bf16 alone: what runs on the tensor cores of a warpgroup (wgmma) has no f32 form.
pub fn only_bf16(stem: &str) -> bool {
    stem.ends_with("_sm90")
}

/// The constants of geometry.h as `(name, expression)`, in order: every line `#define NAME expression`.
pub fn constants(text: &str) -> Vec<(String, String)> {
    let constant = |line: &str| {
        let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        let value = value.split("//").next().unwrap_or_default().trim();
        Some((name.to_string(), value.to_string()))
    };
    text.lines().filter_map(constant).filter(|(name, value)| !name.contains('(') && !value.is_empty()).collect()
}
