/** Asks the diagnosis of the host whose namespaces this process is in; run in a pod, prints JSON. */
import { createDiagnosis } from '../../agent/drivers/network/diagnose/diagnosis.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { POD_STATE } from './network-pod.ts'

const diagnosis = createDiagnosis({ stateDir: POD_STATE, services: createPidfileServices({ dir: `${POD_STATE}/services` }) })
const signal = AbortSignal.timeout(60_000)
const asked = JSON.parse(process.argv[2] ?? '{}') as
  | { look: string, gatewayAddress?: string }
  | { echo: Parameters<typeof diagnosis.echo>[0] }
  | { capture: string, request: Parameters<typeof diagnosis.capture>[1] }
const answer = 'look' in asked ? await diagnosis.look(asked.look, asked.gatewayAddress ?? null, signal)
  : 'echo' in asked ? await diagnosis.echo(asked.echo, signal)
  : await diagnosis.capture(asked.capture, asked.request, signal)
process.stdout.write(JSON.stringify(answer))
