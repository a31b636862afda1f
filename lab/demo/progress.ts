/** Progress lines on stderr: what, and the time since the start. stdout stays for the result. */
export interface Progress {
  step (text: string): void
  detail (text: string): void
}

export function createProgress (monotonic: () => number, out: NodeJS.WritableStream = process.stderr): Progress {
  const started = monotonic()
  const stamp = (): string => `${((monotonic() - started) / 1000).toFixed(1).padStart(6)}s`
  return {
    step: text => { out.write(`${stamp()}  ${text}\n`) },
    detail: text => { for (const line of text.split('\n')) out.write(`${''.padStart(7)}    ${line}\n`) }
  }
}
