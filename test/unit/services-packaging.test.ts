import t from 'tap'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { loadAgentConfig } from '../../agent/config.ts'
import { loadCoordinatorConfig } from '../../coordinator/config.ts'

const file = (name: string): string => fileURLToPath(new URL(`../../packaging/${name}`, import.meta.url))

t.test('the examples are valid configurations', async t => {
  t.match(await loadAgentConfig(file('agent.example.yaml')), { stateDir: '/var/lib/musubi', runDir: '/run/musubi' })
  t.match(await loadCoordinatorConfig(file('coordinator.example.yaml')), { stateDir: '/var/lib/musubi-coordinator', runDir: '/run/musubi-coordinator' })
})

t.test('the units own the folders that the configurations have by default', async t => {
  const agent = await readFile(file('musubi-agent.service'), 'utf8')
  for (const line of ['StateDirectory=musubi', 'RuntimeDirectory=musubi', 'RuntimeDirectoryPreserve=yes', 'Type=notify', 'NotifyAccess=all', 'KillMode=process']) {
    t.match(agent, new RegExp(`^${line}$`, 'm'))
  }
  t.notMatch(agent, /^(Private(Tmp|Devices|Mounts)|Protect(System|Home|Kernel\w+|ControlGroups)|ReadWritePaths)=/m, 'a mount namespace of its own would hide its network namespaces')
  const coordinator = await readFile(file('musubi-coordinator.service'), 'utf8')
  for (const line of ['StateDirectory=musubi-coordinator', 'RuntimeDirectory=musubi-coordinator', 'User=musubi-coordinator', 'CapabilityBoundingSet=']) {
    t.match(coordinator, new RegExp(`^${line}$`, 'm'))
  }
})
