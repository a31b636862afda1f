// Imports point one way: protocol/core <- protocol/{wire,mesh,rest} <- store <- {agent, coordinator}; cli sees protocol only.
module.exports = {
  forbidden: [
    { name: 'core-is-pure', severity: 'error', from: { path: '^protocol/core' }, to: { pathNot: '^(protocol/core|protocol/api\\.ts|typebox|node_modules/typebox)' } },
    { name: 'wire-below-mesh', severity: 'error', from: { path: '^protocol/wire' }, to: { path: '^(protocol/mesh|protocol/rest|store|agent|coordinator|cli|lab)' } },
    { name: 'protocol-below-all', severity: 'error', from: { path: '^protocol' }, to: { path: '^(store|agent|coordinator|cli|lab)' } },
    { name: 'store-below-daemons', severity: 'error', from: { path: '^store' }, to: { path: '^(agent|coordinator|cli|lab)' } },
    { name: 'agent-not-coordinator', severity: 'error', from: { path: '^agent' }, to: { path: '^(coordinator|cli|lab)' } },
    { name: 'coordinator-not-agent', severity: 'error', from: { path: '^coordinator' }, to: { path: '^(agent|cli|lab)' } },
    { name: 'cli-only-protocol', severity: 'error', comment: 'these load the daemons and what makes their keys, by dynamic import', from: { path: '^cli', pathNot: '^cli/commands/(daemons|coordinator|site|lease|segment)\\.ts$' }, to: { path: '^(store|agent|coordinator|lab)' } },
    { name: 'nothing-imports-tests', severity: 'error', from: { pathNot: '^test' }, to: { path: '^test' } },
    { name: 'one-schema-library', severity: 'error', from: {}, to: { path: 'node_modules/(zod|joi|yup|io-ts|valibot)' } },
    { name: 'one-door-to-processes', severity: 'error', from: { pathNot: '^(agent/exec\\.ts|agent/services|cli/commands/(cluster|segment)\\.ts|lab|test|protocol/wire/generate\\.ts)' }, to: { path: '(^child_process$|node_modules/execa)' } },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } } }
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
    tsConfig: { fileName: 'tsconfig.json' },
    exclude: { path: 'protocol/wire/gen' }
  }
}
