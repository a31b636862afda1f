/** As packaging/musubi starts agents: what V8 sets aside for new objects is the most of what else a process would grow by. */
export const AS_AGENT: readonly string[] = ['--max-semi-space-size=2']
