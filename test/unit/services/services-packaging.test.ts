import t from 'tap'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { loadAgentConfig } from '../../../agent/config.ts'
import { loadCoordinatorConfig } from '../../../coordinator/config.ts'

const file = (name: string): string => fileURLToPath(new URL(`../../../packaging/${name}`, import.meta.url))

t.test('the examples are valid configurations', async t => {
  t.match(await loadAgentConfig(file('agent.example.yaml')), { stateDir: '/var/lib/musubi', runDir: '/run/musubi' })
  t.match(await loadCoordinatorConfig(file('coordinator.example.yaml')), { stateDir: '/var/lib/musubi-coordinator', runDir: '/run/musubi-coordinator' })
})

t.test('the units own the folders that the configurations have by default', async t => {
  const has = async (unit: string, ...lines: string[]): Promise<string> => {
    const text = await readFile(file(unit), 'utf8')
    for (const line of lines) t.ok(text.split('\n').includes(line), `${unit}: ${line}`)
    return text
  }
  const closed = ['NoNewPrivileges=yes', 'ProtectSystem=strict', 'Type=notify', 'WatchdogSec=60s']
  await has('musubi-agent.service', 'StateDirectory=musubi', 'RuntimeDirectory=musubi', 'User=musubi', 'CapabilityBoundingSet=', ...closed)
  await has('musubi-coordinator.service', 'StateDirectory=musubi-coordinator', 'RuntimeDirectory=musubi-coordinator', 'User=musubi-coordinator', 'CapabilityBoundingSet=', ...closed)
  const helper = await has('musubi-helper.service', 'StateDirectory=musubi-helper', 'RuntimeDirectory=musubi-helper wireguard', 'RuntimeDirectoryPreserve=yes', 'ReadOnlyPaths=/run', 'RestrictAddressFamilies=AF_UNIX AF_NETLINK', 'Environment=MUSUBI_CONFINED=yes', ...closed)
  t.notMatch(helper, /^User=/m, 'it is root')
})
